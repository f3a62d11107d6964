from demo.load.copying import encode, line


def test_null_and_the_empty_string_stay_apart():
    assert line((None, "", 1)) == "\\N\t\t1\n"


def test_copy_signs_are_escaped():
    assert encode("a\\N\tb\nc\rd") == "a\\\\N\\tb\\nc\\rd"
