"""Files of class names: every form that people bring, and what is refused."""

import codecs
import json

import pytest

from xvit.data.annotations import read_class_names
from xvit.utils.errors import XViTError

NAMES = ["take up", "größe, x", "put down"]
FORMS = {
    "plain.txt": "take up\ngröße, x\nput down\n\n",
    "quoted.txt": '"take up"\n"größe, x"\n  put down  \n',
    "index space.txt": "0 take up\n1 größe, x\n2 put down",
    "index comma.txt": "2,put down\n1,größe, x\n\n0,take up\n",
    "index tab.tsv": "0\ttake up\n2\tput down\n1\tgröße, x\n",
    "index colon.txt": "0: take up\n1: größe, x\n2: put down\n",
    "quoted index.csv": '"0";"take up"\n"1";"größe, x"\n"2";"put down"\n',
    "name index.csv": 'take up;0\nput down;2\n"größe, x";1\n',
    "id name.csv": 'id,name\n2,put down\n0,take up\n1,"größe, x"\n',
    "label name.csv": '"label";"name"\n"0";"take up"\n"1";"größe, x"\n"2";"put down"\n',
    "ID Label.tsv": "ID\tLabel\n0\ttake up\n1\tgröße, x\n2\tput down\n",
    "id key.csv": 'id,key,instances\n1,"größe, x","[1, 2]"\n0,take up,[]\n2,put down,[]\n',
    "class_id class.txt": "class_id class\n0 take up\n1 größe, x\n2 put down\n",
    "trailing.csv": 'take up,\n"größe, x",\nput down,\n',
    "list.json": json.dumps(NAMES),
    "index of name.json": json.dumps({"put down": 2, "take up": "0", "größe, x": 1}),
    "list.txt": json.dumps(NAMES, indent=1),
    "name of index.txt": json.dumps({"2": "put down", "0": "take up", "1": "größe, x"}),
    "index of name.csv": json.dumps({"put down": 2, "take up": 0, "größe, x": 1}),
    "name of index.json": json.dumps({"2": "put down", "0": "take up", "1": "größe, x"}),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_form_gives_the_same_names(name, encoding, line_end, tmp_path):
    (tmp_path / name).write_bytes(FORMS[name].replace("\n", line_end).encode(encoding))
    assert read_class_names(tmp_path / name) == NAMES


@pytest.mark.parametrize("name", ["labels.txt", "labels.csv", "labels.tsv"])
@pytest.mark.parametrize(
    "text",
    [
        "class\nrun\njump\n",
        '"label"\nrun\njump\n',
        "Class Name;Nummer\n0;run\n1;jump\n",
        "label;klasse\nrun;x\njump;y\n",
        "nummer;klasse\n0;run\n1;jump\n",
        "klasse\tnummer\nrun\t0\njump\t1\n",
        "name,videos\nrun,12\njump,7\n",
        "run;fast\njump;high\n",
    ],
)
def test_a_header_that_is_not_understood_is_an_error(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    first = text.partition("\n")[0]
    with pytest.raises(XViTError) as caught:
        read_class_names(tmp_path / name)
    message = str(caught.value)
    assert f'{name} line 1: "{first}"' in message
    assert "id, index" in message
    assert "name, key" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "1 run\n2 jump\n3 swim\n",
        "1,run\n3,swim\n2,jump\n",
        "id;name\n1;run\n2;jump\n3;swim\n",
        "run,1\njump,2\nswim,3\n",
    ],
)
def test_numbers_from_1_are_refused_and_said(text, tmp_path):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(
        XViTError, match=r"numbered from 1 to 3: expected the class indices 0 to 2.*subtract 1 from each"
    ):
        read_class_names(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", "größe\nlang\n".encode("latin-1"), "a.txt line 1: byte 0xf6 is not UTF-8"),
        ("a.txt", b"0 run\n2 jump\n", "expected the class indices 0 to 1, each once"),
        ("a.txt", b"0 run\n0 jump\n", "expected the class indices 0 to 1, each once"),
        ("a.txt", b"0 run\n" + b"9" * 5000 + b" jump\n", "expected the class indices 0 to 1, each once"),
        ("a.json", b'{"run": 0, "jump": "' + b"9" * 5000 + b'"}', "expected the class indices 0 to 1, each once"),
        ("a.txt", b"0,run\n1,run\n", 'class "run" is in lines 1 and 2'),
        ("a.csv", b"id,name\n0,run\n1,run\n", 'class "run" is in lines 2 and 3'),
        ("a.csv", b"id,name\n0,run\n1,\n", "a.csv line 3: no name"),
        ("a.json", b'{"run": 0, "run": 1}', '"run" is there twice'),
        ("a.json", b'["run", "run"]', 'class "run" is in entry 1 and entry 2'),
        ("a.json", b'["run", " "]', "entry 2 is empty"),
        ("a.txt", codecs.BOM_UTF8, "no class names"),
    ],
)
def test_what_is_refused(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(XViTError, match=message):
        read_class_names(tmp_path / name)
