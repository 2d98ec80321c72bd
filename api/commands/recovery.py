"""Commands for the offline recovery key: key new-, register- and list-recovery, recover."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from api.bootstrap import Offline, open_offline
from api.commands.keys import NoWait, key, run_job
from api.commands.local import Home, Json, explained, given, say
from api.commands.output import COULD_NOT_RUN, FOUND_WRONG, AsJson, progress_bar, show_list
from api.home import lock_home
from api.restored import RestoredFolder
from api.settings import load
from keymgmt.errors import DecryptionFailed
from keymgmt.recoveryfile import read_private, write_private
from keymgmt.recoverykey import RecoveryPrivateKey
from vault.objects.store import ObjectMissing
from vault.recovery.restore import Restore, StoredVersion

app = typer.Typer()

PassphraseFile = Annotated[
    Path | None, typer.Option(help="a file with the passphrase; otherwise it is asked for")
]

_MAX_NAMED: Final = 1000
_SHUT: Final = "shredded, or damaged"
_KEY: Final = ("id", "registered_at", "registered_by", "sealed", "unsealed")


@key.command("new-recovery")
def new_recovery(
    file: Annotated[Path, typer.Argument(help="a new file for the private half")],
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a recovery key on a machine that need not know the service; prints its public half.

    Example: strongroom key new-recovery recovery.key
    """
    with explained():
        made = RecoveryPrivateKey.generate()
        write_private(file, made, _passphrase(passphrase_file, confirm=True))
    public = made.public
    say({"id": public.id, "public_key": public.to_text()}, public.to_text(), as_json=as_json)
    typer.echo(
        f"strongroom: recovery key {public.id}; keep the file, and apart from it the passphrase, offline and "
        "twice; the line goes to `strongroom key register-recovery`",
        err=True,
    )


@key.command("register-recovery")
def register_recovery(
    context: typer.Context,
    public_key: Annotated[str, typer.Argument(help="the public half, or - for standard input")],
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Seal every data key to this recovery key too: new ones at once, stored ones by a job.

    Example: strongroom key register-recovery - < recovery.pub
    """
    line = sys.stdin.read() if public_key == "-" else public_key
    body = {"public_key": line.strip()}
    run_job(context, as_json, "/v1/keys/recovery", "recovery", no_wait=no_wait, body=body)


@key.command("list-recovery")
def list_recovery(context: typer.Context, as_json: AsJson = False) -> None:
    """List recovery keys, the one that counts first. Example: strongroom key list-recovery"""
    show_list(context, as_json, "/v1/keys/recovery", {}, _KEY, all_pages=False)


@app.command()
def recover(
    private_key: Annotated[Path, typer.Argument(help="the recovery key's private half")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the folder to restore into")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="open every data key, and write nothing")
    ] = False,
    rekey: Annotated[
        bool, typer.Option("--rekey", help="wrap every data key under the new KMS of the settings")
    ] = False,
    site: Annotated[str | None, typer.Option(help="a or b; by default the local one")] = None,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """When the KMS is lost for good: documents, or the whole vault, from a database copy and a site.

    Example: STRONGROOM_DATABASE_URL_FILE=copy-url strongroom recover recovery.key --output restored
    """
    if [output is not None, check, rekey].count(True) != 1:
        typer.echo("strongroom: say one of --output FOLDER, --check and --rekey", err=True)
        raise typer.Exit(COULD_NOT_RUN)
    with explained():
        private = read_private(private_key, _passphrase(passphrase_file, confirm=False))
        settings = load(**given(home=home))
        with lock_home(settings.home), open_offline(settings, private, site) as offline:
            offline.restore.prepare()
            found = _performed(offline, output, rekey=rekey)
    say(found.as_result(), found.in_words(), as_json=as_json)
    if found.failed:
        raise typer.Exit(FOUND_WRONG)


@dataclass
class _Outcome:
    """What came of each version.

    Attributes:
        failed: those that could not be had, and why; the first `_MAX_NAMED`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, version: StoredVersion, reason: str) -> None:
        self.counts["failed"] += 1
        if len(self.failed) < _MAX_NAMED:
            place = {"document_id": str(version.document_id), "version": version.number}
            self.failed.append({**place, "reason": reason})

    def as_result(self) -> dict[str, Any]:
        return {**self.counts, "failed": self.counts["failed"], "failed_versions": self.failed}

    def in_words(self) -> str:
        counted = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        lines = [counted or "there is no document in this copy"]
        return "\n".join([*lines, *map(_line, self.failed)])


def _line(failed: dict[str, Any]) -> str:
    return f"{failed['document_id']} version {failed['version']}: {failed['reason']}"


def _performed(offline: Offline, output: Path | None, *, rekey: bool) -> _Outcome:
    if output is not None:
        return _restored(offline.restore, output)
    return _rekeyed(offline) if rekey else _checked(offline.restore)


def _checked(restore: Restore) -> _Outcome:
    def check(version: StoredVersion) -> str:
        restore.data_key(version)
        return "data keys open"

    return _each(restore, "check", check)


def _restored(restore: Restore, output: Path) -> _Outcome:
    folder = RestoredFolder(output)

    def write(version: StoredVersion) -> str:
        already = folder.has(version)
        if not already:
            folder.write(version, restore.content(version))
        folder.note(version)
        return "were there already" if already else "restored"

    found = _each(restore, "recover", write)
    folder.finish()
    return found


def _rekeyed(offline: Offline) -> _Outcome:
    found, total = _Outcome(), offline.restore.count()
    with progress_bar("rekey", of_bytes=False) as advance:

        def report(version: StoredVersion, is_open: bool) -> None:
            if is_open:
                found.counts["rekeyed"] += 1
            else:
                found.fail(version, _SHUT)
            advance(found.counts.total(), total)

        offline.rekey().run(report)
    return found


def _each(restore: Restore, label: str, work: Callable[[StoredVersion], str]) -> _Outcome:
    found, total = _Outcome(), restore.count()
    with progress_bar(label, of_bytes=False) as advance:
        for version in restore.versions():
            try:
                found.counts[work(version)] += 1
            except DecryptionFailed:
                found.fail(version, _SHUT)
            except ObjectMissing:
                found.fail(version, "the site has no such object")
            advance(found.counts.total(), total)
    return found


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    if file is None:
        asked: str = typer.prompt(
            "passphrase", hide_input=True, confirmation_prompt=confirm, err=True
        )
        return asked
    return file.read_text(encoding="utf-8").strip("\r\n")
