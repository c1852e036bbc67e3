"""The demo: the whole loop on the embedded world, by the stages as functions, ending with a table, a report and a picture.

Reads nothing; writes a store, logs, `report.html`, `contact_sheet.png` and `demo.json` into one folder.
"""
