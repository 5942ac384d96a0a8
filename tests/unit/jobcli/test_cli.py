"""A command line is read by a parser that knows the verb that is there, as by one that knows all of them."""

from __future__ import annotations

import pytest

from api.errors import ConfigError
from jobcli.cli import VERBS, parse, parser

ID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"


@pytest.mark.parametrize(
    "line",
    [
        "start true",
        "run -- true",
        "--server list run --retry-for 3 sh -c stop",
        f"query {ID}",
        f"stream {ID} --from 3",
        "list",
    ],
)
def test_what_is_asked_for_is_the_same(line: str) -> None:
    """Words that are verbs by chance included."""
    before, dashes, command = line.partition(" -- ")
    expected = vars(parser().parse_args(before.split()))
    assert vars(parse(line.split())) == {**expected, **({"command": command.split()} if dashes else {})}


@pytest.mark.parametrize(
    "line", ["wrong", "wrong run", "list --all stop", "", "--server", "run --no-such-thing", "stop"]
)
def test_what_is_wrong_is_said_by_one_that_knows_all(line: str) -> None:
    """A verb that there is not: which there are."""
    with pytest.raises(ConfigError) as expected:
        parser().parse_args(line.split())
    with pytest.raises(ConfigError) as caught:
        parse(line.split())
    assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("line", ["--help", "-h run", "--help --server x list", "--server query --help"])
def test_help_knows_all_verbs(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever stand behind it."""
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(f"\n    {verb}" in told for verb in VERBS)


def test_the_help_of_a_verb_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """With the connection's options, as ever."""
    told = []
    for read in (parse, parser().parse_args):
        with pytest.raises(SystemExit):
            read(["stop", "--help"])
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert "--server" in told[0]
