import pytest

from trainer.errors import Unavailable, UserError, error_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a thing\nand more"), "ValueError: a thing"),
        (ValueError(), "ValueError"),
        (ValueError("\n \n  late: "), "ValueError: late"),
        (UserError("`a` must be 1.\n"), "`a` must be 1"),
        (Unavailable("no network."), "no network"),
        (KeyError("a"), "KeyError: 'a'"),
        (OSError(28, "No space left on device", "f"), "OSError: [Errno 28] No space left on device: 'f'"),
    ],
)
def test_an_exception_in_one_line(error: Exception, line: str) -> None:
    assert error_line(error) == line


def test_without_its_type_unless_there_is_nothing_else() -> None:
    assert error_line(ValueError("a thing."), with_type=False) == "a thing"
    assert error_line(ValueError(), with_type=False) == "ValueError"
