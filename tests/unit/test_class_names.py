"""Words for a data set's classes in prompts, from a file."""

import pytest

from deepal_galot.datasets.class_names import prompt_words
from deepal_galot.errors import UserError

NAMES = ("crane", "bat", "mouse")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crane bird\nfruit bat\nfield mouse\n", ("crane bird", "fruit bat", "field mouse")),
        ("# animals\ncrane bird\nbat\nmouse", ("crane bird", "bat", "mouse")),
        ("bat = fruit bat\n", ("crane", "fruit bat", "mouse")),
        ("mouse = field mouse\n# birds\n crane =  crane bird \n",
         ("crane bird", "bat", "field mouse")),
        ("bat = mouse\nmouse = bat\n", ("crane", "mouse", "bat")),
        ("a=b\nbat\nmouse", ("a=b", "bat", "mouse")),
        ("\ufeffcrane bird\r\nbat\r\nmouse\r\n", ("crane bird", "bat", "mouse")),
    ],
)  # fmt: skip
def test_words_of_classes(tmp_path, text, words):
    file = tmp_path / "words.txt"
    file.write_text(text, encoding="utf-8")
    assert prompt_words(file, NAMES) == words


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("crane\nbat\n", "2 names for 3 classes; give one a line for each class, or lines OLD"),
        ("crane\nbat\nmouse\nrat\n", "4 names for 3 classes"),
        ("", "0 names for 3 classes"),
        ("bst = fruit bat\n", "no class 'bst': did you mean bat"),
        ("crane\n\nbat\nmouse\n", "an empty line after 1 names"),
        ("crane\nbat\nbat\n", "two classes have the same name: bat"),
        ("bat = mouse\n", "two classes have the same name: mouse"),
        ("bat = a\nbat = b\n", "two lines for 'bat'"),
        ("bat = a\nmouse\n", "'mouse' is not a line OLD = NEW"),
        ("bat = \n", "class names must be text on one line, not ''"),
    ],
)
def test_files_that_are_refused(tmp_path, text, says):
    file = tmp_path / "words.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as error:
        prompt_words(file, NAMES)
    assert str(error.value).startswith(f"--class-names {file}: ")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read as text"):
        prompt_words(tmp_path / "none.txt", NAMES)
