"""Names of languages, missing toolchains, and what a Java file must be called."""

from __future__ import annotations

import pytest

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.sandbox import languages, toolchains


def test_every_language_is_listed_with_its_toolchain_or_none() -> None:
    found = languages()
    assert set(found) == {"python", "pytest", "cpp", "java", "nodejs", "go", "rust", "bash"}
    assert found["python"]


@pytest.mark.parametrize(
    ("alias", "name"), [("C++", "cpp"), ("js", "nodejs"), ("golang", "go"), ("Python3", "python")]
)
def test_common_names_are_understood(alias: str, name: str) -> None:
    assert toolchains.language(alias).name == name


def test_an_unknown_language_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no 'pyton'") as caught:
        toolchains.language("pyton")
    assert "python" in caught.value.hint


def test_a_missing_toolchain_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    toolchains._toolchain.cache_clear()
    try:
        assert languages()["go"] is None
        with pytest.raises(ReasonkitError, match="no toolchain for 'go'") as caught:
            toolchains.toolchain("go")
        assert caught.value.hint == "apt-get install golang-go"
    finally:
        toolchains._toolchain.cache_clear()


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("class A { public static void main(String[] a) {} }", ("Main.java", "A")),
        ("class B {}\npublic class C { public static void main(String[] a) {} }", ("C.java", "C")),
        (
            "package p.q;\npublic final class D { public static void main(String[] a) {} }",
            ("D.java", "p.q.D"),
        ),
        ("class E {}\nclass F {}", ("Main.java", "Main")),
        ("class Helper {}\nclass Run { static void main(String[] a) {} }", ("Main.java", "Run")),
        ("class G { class Node {} public static void main(String[] a) {} }", ("Main.java", "G")),
    ],
)
def test_java_names(code: str, names: tuple[str, str]) -> None:
    assert toolchains.java_names(code) == names
