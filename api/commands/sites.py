"""Commands for both sites: site."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import takewhile
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from api.client import Client
from api.commands import amounts
from api.commands.asking import Act, Ask, For, asking
from api.commands.keys import NoWait, Yes, confirm, followed, run_job
from api.commands.names import printable_json
from api.commands.output import (
    COULD_NOT_RUN,
    FOUND_WRONG,
    AsJson,
    Everything,
    PageSize,
    PageToken,
    connected,
    post,
    show_list,
    show_pages,
    show_table,
    utc,
)
from vault.access.policy import Action

site = typer.Typer(help="The two sites: status, proof, repair, failover.", no_args_is_help=True)

SiteName = Annotated[str, typer.Argument(metavar="SITE", help="a or b")]

_SITE: Final = (
    *("site", "state", "epoch", "counted", "verified", "lost", "owed", "oldest", "parked", "debt"),
    *("incidents", "read back"),
)
_COPY: Final = ("version", "site", "state")
_INCIDENT: Final = (
    *("at", "kind", "site", "document_id", "version", "found_by", "resolved_at", "resolution"),
)
_ORPHAN: Final = ("object_id", "site", "size", "first_seen_at")
_WRONG: Final = (
    *("missing", "damaged", "unexpected", "read-missing", "read-damaged", "read-unreachable"),
)
"""Counts of a scrub that mean something was found."""

_SOUND: Final = {"verified", "purged"}
"""States of copies that leave nothing to do."""


@site.command("status")
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show what each site has, owes and lacks. Example: strongroom site status"""
    with connected(context, as_json) as client:
        found = client.call("GET", "/v1/sites")
    if as_json:
        typer.echo(printable_json(found))
        return
    show_table([_site_in_words(found, each) for each in found["sites"]], _SITE)
    for line in _status_in_words(found):
        typer.echo(line)


@site.command("verify")
def verify(
    context: typer.Context,
    document_id: Annotated[UUID | None, typer.Argument(metavar="ID")] = None,
    every: Annotated[bool, typer.Option("--all", help="every document; a job")] = False,
    as_json: AsJson = False,
) -> None:
    """Read copies back at both sites now; exit 1 unless all are what was stored.

    Example: strongroom site verify 0198…; strongroom site verify --all
    """
    if every == (document_id is not None):
        typer.echo("strongroom: name one document, or say --all", err=True)
        raise typer.Exit(COULD_NOT_RUN)
    is_sound = (
        _verify_all(context, as_json) if every else _verify_one(context, as_json, document_id)
    )
    if not is_sound:
        raise typer.Exit(FOUND_WRONG)


@site.command("scrub")
def scrub(context: typer.Context, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Compare both sites with the database now; exit 1 if something was found.

    Example: strongroom site scrub
    """
    run_job(
        context, as_json, "/v1/sites/scrub", "scrub", no_wait=no_wait, is_wrong=_scrub_found_wrong
    )


@site.command("resync")
def resync(
    context: typer.Context, name: SiteName, no_wait: NoWait = False, as_json: AsJson = False
) -> None:
    """Give a site again what it lacks, the newest first. Example: strongroom site resync b"""
    path = f"/v1/sites/{_checked(name)}/resync"
    run_job(context, as_json, path, f"resync {name}", no_wait=no_wait)


@site.command("failover")
def fail_over(
    context: typer.Context,
    name: SiteName,
    yes: Yes = False,
    ask: Ask = None,
    purpose: For = None,
    as_json: AsJson = False,
) -> None:
    """Say what it means that SITE goes on alone, ask, then fence the other site.

    --yes accepts what is said. Without it, and without a terminal, nothing is done: exit 2.
    Where there is another operator it takes their approval; --ask and --purpose ask for it.

    Example: strongroom site failover b --ask 'site a burns' --purpose disaster
    """
    path = f"/v1/sites/{_checked(name)}/failover"
    act = Act(Action.SITE_FAIL_OVER, {"site": name}, purpose)
    with asking(context, as_json, act, ask) as client:
        outlook = client.call("GET", path)
        _tell(outlook, as_json=as_json, is_dry=not yes and not sys.stdin.isatty())
        why = "the other site is fenced until it is admitted"
        confirm(f"Fail over to site {name}?", yes=yes, why=why)
        done = client.call("POST", path, json={"accepted": outlook["only_elsewhere"]})
        if as_json:
            typer.echo(printable_json(done))
        else:
            typer.echo(f"site {name} goes on alone; the sweep waits for `site confirm-sweep`")


@site.command("admit")
def admit(context: typer.Context, name: SiteName, as_json: AsJson = False) -> None:
    """Let a fenced site serve again beside the other. Example: strongroom site admit a"""
    _change(context, as_json, f"/v1/sites/{_checked(name)}/admit", f"site {name} may write")


@site.command("incidents")
def list_incidents(
    context: typer.Context,
    open_only: Annotated[bool, typer.Option("--open", help="only what is not resolved")] = False,
    document_id: Annotated[UUID | None, typer.Option("--document", help="only of this one")] = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List what was found wrong, newest first. Example: strongroom site incidents --open"""
    options = {
        "open": "true" if open_only else None,
        "document_id": document_id and str(document_id),
        "page_size": page_size,
        "page_token": page_token,
    }
    show_list(context, as_json, "/v1/sites/incidents", options, _INCIDENT, all_pages=all_pages)


@site.command("orphans")
def orphans(
    context: typer.Context,
    remove: Annotated[
        bool, typer.Option("--remove", help="have those removed that are known for a day")
    ] = False,
    yes: Yes = False,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List objects that nothing explains, or have them removed. Example: strongroom site orphans"""
    if remove:
        confirm("Remove every orphan that is known for a day?", yes=yes)
        post(context, as_json, "/v1/sites/orphans/remove")
        return
    options = {"page_size": page_size, "page_token": page_token}
    path = "/v1/sites/orphans"
    show_list(
        context, as_json, path, options, _ORPHAN, all_pages=all_pages, reworded=_orphan_in_words
    )


@site.command("confirm-sweep")
def confirm_sweep(context: typer.Context, as_json: AsJson = False) -> None:
    """After a restore or failover: database and objects belong together, sweep again.

    Example: strongroom site confirm-sweep
    """
    _change(context, as_json, "/v1/sites/sweep/confirm", "the sweep goes on")


@site.command("retry-parked")
def retry_parked(context: typer.Context, as_json: AsJson = False) -> None:
    """Have work tried again that was given up. Example: strongroom site retry-parked"""
    post(context, as_json, "/v1/sites/parked/retry")


def _change(context: typer.Context, as_json: bool, path: str, words: str) -> None:
    """POST; the whole status as JSON, or a few words."""
    with connected(context, as_json) as client:
        found = client.call("POST", path)
    typer.echo(printable_json(found) if as_json else words)


def _verify_one(context: typer.Context, as_json: bool, document_id: UUID | None) -> bool:
    with connected(context, as_json) as client:
        found = client.call("POST", f"/v1/documents/{document_id}/verify")
        show_pages(context, iter([found]), _COPY, all_pages=False)
    return all(copy["state"] in _SOUND for copy in found["items"])


def _verify_all(context: typer.Context, as_json: bool) -> bool:
    """Follow the job, then show its counts and the incidents that are open, or that it met."""
    with connected(context, as_json) as client:
        ended = followed(client, client.call("POST", "/v1/sites/verify"), "verify")
        incidents = list(_incidents_of(client, ended))
    if as_json:
        typer.echo(printable_json({"job": ended, "incidents": incidents}))
    else:
        for line in _verification_in_words(ended):
            typer.echo(line)
        if incidents:
            show_table(incidents, _INCIDENT)
    return ended["state"] == "done" and all(map(_is_sound, _counts(ended).values()))


def _incidents_of(client: Client, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Those since the job began, repaired by now or not, and older ones that are still open."""
    since = datetime.fromisoformat(job["created_at"])
    found = (each for page in _incident_pages(client) for each in page["items"])
    yield from takewhile(lambda each: datetime.fromisoformat(each["at"]) >= since, found)
    for page in _incident_pages(client, open="true"):
        yield from (each for each in page["items"] if datetime.fromisoformat(each["at"]) < since)


def _incident_pages(client: Client, **options: str) -> Iterator[dict[str, Any]]:
    return client.pages("GET", "/v1/sites/incidents", {"page_size": 1000, **options})


def _counts(ended: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What a verification or scrub counted, by site."""
    found: dict[str, dict[str, int]] = (ended.get("result") or {}).get("sites", {})
    return found


def _is_sound(counts: Mapping[str, int]) -> bool:
    return not any(number for state, number in counts.items() if state not in _SOUND)


def _scrub_found_wrong(result: dict[str, Any]) -> bool:
    sites = result.get("sites", {}).values()
    return any(counts.get(name) for counts in sites for name in _WRONG)


def _verification_in_words(ended: Mapping[str, Any]) -> Iterator[str]:
    if ended["state"] != "done":
        yield f"the job {ended['id']} is {ended['state']}: {ended['error'] or 'see job show'}"
    for name, counts in _counts(ended).items():
        whole = sum(number for state, number in counts.items() if state != "purged")
        verified = counts.get("verified", 0)
        others = ", ".join(f"{n} {state}" for state, n in counts.items() if state not in _SOUND)
        part = amounts.share(verified / whole if whole else 1.0)
        yield f"site {name}: {part} verified, {verified} of {whole}" + (
            f" ({others})" if others else ""
        )


def _site_in_words(status: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, str]:
    backlog = found["backlog"]
    rows = sum(row["waiting"] + row["parked"] for row in backlog)
    owed = f"{rows}, {amounts.size(sum(row['size_bytes'] for row in backlog))}" if rows else "0"
    return {
        "site": found["name"] + (" (local)" if found["is_local"] else ""),
        "state": "fenced" if found["is_fenced"] else "up" if found["is_up"] else "away",
        "epoch": str(found["epoch"]),
        "counted": f"{found['counted']} of {status['versions']}",
        "verified": str(found["verified"]),
        "lost": str(found["lost"]),
        "owed": owed,
        "oldest": amounts.age(found["oldest_unverified_seconds"]),
        "parked": str(found["parked"]),
        "debt": str(found["debt"]),
        "incidents": str(found["open_incidents"]),
        "read back": amounts.share(found["read_within_period"]),
    }


def _status_in_words(found: Mapping[str, Any]) -> Iterator[str]:
    for each in found["sites"]:
        offered = each["capabilities"]
        if offered is not None:
            names = [name.replace("_", " ") for name, there in offered.items() if there]
            yield f"site {each['name']} offers {', '.join(names) or 'plain S3 only'}"
    if found["scrubbed_seconds"] is None:
        yield "no scrub has gone through yet"
    else:
        yield f"the last scrub ended {amounts.age(found['scrubbed_seconds'])} ago"
    if found["sweep_hold"] is not None:
        why = found["sweep_hold"]["why"]
        yield f"nothing is swept ({why}) until somebody says `strongroom site confirm-sweep`"


def _tell(outlook: Mapping[str, Any], *, as_json: bool, is_dry: bool) -> None:
    """In words, which go to standard error where JSON is asked for; as JSON if nothing else follows."""
    if as_json and is_dry:
        typer.echo(printable_json(outlook))
    for line in _outlook_in_words(outlook):
        typer.echo(line, err=as_json)


def _outlook_in_words(outlook: Mapping[str, Any]) -> Iterator[str]:
    name = outlook["site"]
    yield f"If site {name} goes on alone:"
    lacking = outlook["only_elsewhere"]
    if lacking:
        bytes_ = amounts.size(outlook["only_elsewhere_bytes"])
        yield (
            f"- {amounts.count(lacking, 'stored version')} ({bytes_}) "
            f"{'has' if lacking == 1 else 'have'} no copy there that counts: out of reach until the other "
            f"site is back, lost if it never is; the oldest is of {utc(outlook['oldest_only_elsewhere'])}"
        )
    else:
        yield "- every stored version has a copy there"
    if outlook["unverified"]:
        copies = amounts.count(outlook["unverified"], "copy", "copies")
        yield f"- {copies} of them never read back since the upload"
    if outlook["parked"]:
        copies = amounts.count(outlook["parked"], "copy", "copies")
        yield f"- {copies} to it given up until somebody looks (site incidents)"
    if outlook["uploaders"]:
        processes = amounts.count(outlook["uploaders"], "process", "processes")
        yield f"- what {processes} of the other site may have under way will be refused"
    if not outlook["is_up"]:
        yield f"- site {name} does not answer just now"


def _orphan_in_words(found: Mapping[str, Any]) -> dict[str, Any]:
    return {**found, "size": amounts.size(found["size_bytes"])}


def _checked(name: str) -> str:
    """A site in a path; whether there is such a one is the service's to say."""
    if not (name.isalnum() and name.isascii()):
        typer.echo("strongroom: a site is a or b", err=True)
        raise typer.Exit(COULD_NOT_RUN)
    return name
