from pathlib import Path
from xml.etree import ElementTree

import pytest

from demo.errors import DemoError
from demo.jars import SEARCH, Jars, is_network


def test_the_project_for_maven_names_every_artifact():
    root = ElementTree.fromstring(SEARCH.pom())
    names = [node.text for node in root.iter() if node.tag.endswith("}artifactId")]
    assert names == ["search", "elasticsearch", "transport-netty4"]


def test_the_network_module_is_not_on_the_class_path():
    assert is_network(Path("netty-common-4.1.jar"))
    assert not is_network(Path("elasticsearch-9.jar"))


def test_a_missing_maven_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DemoError, match="install Maven"):
        Jars(tmp_path / "jars").fetch()
    assert not list((tmp_path / "jars").glob("*-*"))
