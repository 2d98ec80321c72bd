"""Commands of people: login, logout, whoami, step-up, password, enrol.

Whatever is secret is asked for without an echo, on the terminal or line by line from standard input, and
never taken as an argument, which other users of the machine would see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from api import savedsession
from api.client import Client, NotConfigured
from api.commands.output import AsJson, connected, show
from api.settings import client_url_and_key

app = typer.Typer()

TokenFile = Annotated[
    Path | None, typer.Option(help="write the session's token there, and keep it nowhere else")
]


@app.command("login")
def login(
    context: typer.Context,
    name: str,
    recovery: Annotated[bool, typer.Option(help="ask for a recovery code, not the app's")] = False,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Sign in with password and code; later commands use the session. Example: strongroom login chen.wei"""
    with connected(context, as_json, anonymous=True) as client:
        code = "recovery_code" if recovery else "totp"
        body = {
            "name": name,
            "password": _hidden("Password"),
            code: _hidden("Recovery code" if recovery else "Code of the app"),
        }
        begun = client.call("POST", "/v1/sessions/password", json=body)
        _keep(context, begun, token_file)


@app.command("logout")
def logout(context: typer.Context, as_json: AsJson = False) -> None:
    """End the session, here and at the service. Example: strongroom logout"""
    with connected(context, as_json) as client:
        client.call("POST", "/v1/sessions/end")
        savedsession.forget(context.obj.service_url)
        show(context, {"signed_out": True})


@app.command("whoami")
def whoami(context: typer.Context, as_json: AsJson = False) -> None:
    """Say who the service takes you for, with scopes or roles. Example: strongroom whoami"""
    with connected(context, as_json) as client:
        found = client.call("GET", "/v1/whoami")
        if not context.obj.as_json:
            found = {**found, "roles": [_role(each) for each in found["roles"]]}
        show(context, found)


@app.command("step-up")
def step_up(context: typer.Context, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Prove once more who you are, for what needs it. Example: strongroom step-up"""
    with connected(context, as_json) as client:
        _refuse_a_key_of_the_environment(token_file)
        body = {"password": _hidden("Password"), "totp": _hidden("Code of the app")}
        _keep(context, client.call("POST", "/v1/sessions/step-up", json=body), token_file)


@app.command("password")
def password(context: typer.Context, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Change your password; all your other sessions end. Example: strongroom password"""
    with connected(context, as_json) as client:
        _refuse_a_key_of_the_environment(token_file)
        body = {
            "old": _hidden("Old password"),
            "new": _hidden("New password", twice=True),
            "totp": _hidden("Code of the app"),
        }
        _keep(context, client.call("POST", "/v1/me/password", json=body), token_file)


@app.command("enrol")
def enrol(context: typer.Context, as_json: AsJson = False) -> None:
    """Choose a password and set up the app, with the token you were given. Example: strongroom enrol"""
    with connected(context, as_json, anonymous=True) as client:
        token = _hidden("Enrolment token").strip()
        body = {"token": token, "password": _hidden("New password", twice=True)}
        app_secret = client.call("POST", "/v1/enrolment", json=body)
        # Not the answer yet, so with --json it does not stand where that goes.
        typer.echo("Give this to your authenticator app, as a QR code or typed:", err=True)
        typer.echo(app_secret["otpauth_url"], err=True)
        typer.echo(f"secret: {app_secret['secret']}", err=True)
        _show_codes(context, client, token)


@app.command("enrolment")
def give_enrolment(context: typer.Context, principal_id: UUID, as_json: AsJson = False) -> None:
    """Let a person enrol; the token is shown this once. Example: strongroom enrolment 0198…"""
    with connected(context, as_json) as client:
        show(context, client.call("POST", f"/v1/people/{principal_id}/enrolment"))


def _show_codes(context: typer.Context, client: Client, token: str) -> None:
    body = {"token": token, "totp": _hidden("Code of the app")}
    confirmed = client.call("POST", "/v1/enrolment/confirm", json=body)
    if context.obj.as_json:
        show(context, confirmed)
        return
    typer.echo(
        "Recovery codes, each good once in place of the app. Keep them where the phone is not:"
    )
    for code in confirmed["recovery_codes"]:
        typer.echo(f"  {code}")


def _keep(context: typer.Context, begun: dict[str, Any], token_file: Path | None) -> None:
    """Keep the token, and show the session without it."""
    if token_file is None:
        savedsession.save(context.obj.service_url, begun["token"])
    else:
        savedsession.write_token(token_file, begun["token"])
    show(context, begun["session"])


def _refuse_a_key_of_the_environment(token_file: Path | None) -> None:
    """Where STRONGROOM_API_KEY holds a session's token, its successor would be saved and not be used."""
    if client_url_and_key()[1] and token_file is None:
        raise NotConfigured(
            "STRONGROOM_API_KEY is set, and a new session would not be used: unset it, or say --token-file"
        )


def _hidden(label: str, *, twice: bool = False) -> str:
    answer: str = typer.prompt(label, hide_input=True, confirmation_prompt=twice, err=True)
    return answer


def _role(held: dict[str, Any]) -> str:
    where = f" in {held['department']}" if held["department"] else ""
    only = f" for {held['class']}" if held["class"] else ""
    deputy = " as a deputy" if held["deputy_of"] else ""
    return f"{held['role']}{where}{only}{deputy}"
