from idgrpo.records.remember import remembered


def test_a_result_is_remembered_until_the_file_changes(tmp_path):
    calls = []

    @remembered(maxsize=8)
    def read(path: str, times: int) -> str:
        calls.append(path)
        with open(path) as file:
            return file.read() * times

    file = tmp_path / "a"
    file.write_text("x")
    assert [read(str(file), 2), read(str(file), 2), read(str(file), 3)] == ["xx", "xx", "xxx"]
    assert len(calls) == 2
    other = tmp_path / "b"
    other.write_text("y")
    other.replace(file)
    assert read(str(file), 2) == "yy" and len(calls) == 3
