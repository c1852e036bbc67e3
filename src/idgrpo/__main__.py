"""`python -m idgrpo` is `idgrpo`."""

from idgrpo.cli.main import main

main()
