"""What can go wrong in the vault, by whose fault it is.

VaultError
├── NotFound                    missing, or not visible to this caller: the two are never told apart
├── NotAllowed                  the policy says no; carries the rule in words
│   ├── StepUpNeeded            not before they have proved once more who they are
│   └── ApprovalNeeded          not without an approval, which somebody else gives
├── IdentityNotLinked           a provider vouches for somebody who is nobody here
├── OtherIdentity               a step-up by somebody other than whose session it is
├── CredentialRevoked           the API key or session died between authentication and the act
├── SignInRefused               name, password or code is not right; one answer for all that can be wrong
├── SignInDelayed               too many wrong tries; carries after how many seconds the next one counts
├── EnrolmentRefused            no enrolment token that counts
├── InvalidInput                the caller's data; each carries what to do, never the data itself
│   ├── InvalidName, InvalidValue, InvalidPageToken, UnknownClass
│   ├── TooLarge, MediaTypeNotAllowed
│   └── DocumentNotFit          the stored versions break the rules of the class asked for
├── Conflict                    well-formed, but not in this state
│   ├── PreconditionFailed, DocumentInBin, DocumentNotInBin, DocumentHeld
│   ├── AlreadyExists, TooManyKeys, KeyVersionInUse
│   ├── JobUnderWay, JobEnded, OutlookWorse, SweepHeld
│   ├── DutiesConflict, ApprovalOver, SetupIncomplete
│   └── IdempotencyInFlight, IdempotencyMismatch
├── IntegrityFailure            stored bytes or keys are not what the database says
└── Unavailable                 try again later
    ├── DatabaseUnavailable
    ├── NotReplicated           committed and visible, but at no standby: no acknowledgement
    ├── KekVersionGone          the KEK version of a new row was retired meanwhile
    ├── RecoveryOutdated        the recovery epoch of a new row is over, or not the newest
    ├── SiteFenced              this process's site was failed over to the other one
    ├── SignInBusy              as many passwords as memory allows are being checked
    ├── PeerAway                the class wants two copies at once, and the other site is away
    ├── StandbyAway             the class wants the commit at a standby too, and PostgreSQL has none
    └── UploadLost              this process was taken for dead and its upload row swept
"""

from __future__ import annotations


class VaultError(Exception):
    """Base of every error this room raises."""


class NotFound(VaultError):
    """Missing, or not visible to this caller."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"no such {kind}, or it is not visible to you")


class NotAllowed(VaultError):
    """The policy refuses; `rule` says why in words."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class StepUpNeeded(NotAllowed):
    """Allowed to this person, once they have proved again who they are."""


class ApprovalNeeded(NotAllowed):
    """Allowed to this caller, with a grant that somebody else has approved."""


class IdentityNotLinked(VaultError):
    """No person who may sign in is linked to an account at the provider."""

    def __init__(self) -> None:
        super().__init__(
            "nobody who may sign in here is linked to this account of the provider's: ask a security "
            "administrator to link it with POST /v1/people/{principal_id}/identities; they know issuer and "
            "subject from the directory"
        )


class OtherIdentity(VaultError):
    """The provider vouches for somebody other than whose session asked for a step-up."""

    def __init__(self) -> None:
        super().__init__(
            "the account that you proved at the provider is not that of your session: sign in there as "
            "yourself, and step up again"
        )


class CredentialRevoked(VaultError):
    """The API key or session ended, or its principal's authority changed, while the request ran."""

    def __init__(self) -> None:
        super().__init__("this API key or session is no longer valid")


class SignInRefused(VaultError):
    """Not signed in: one answer, whatever was wrong, so that nobody learns which names there are."""

    def __init__(self) -> None:
        super().__init__("name, password or code is not right; each code counts once")


class SignInDelayed(VaultError):
    """After some wrong tries the next one has to wait, for known names and unknown ones alike."""

    def __init__(self, seconds: int) -> None:
        super().__init__("too many wrong tries; wait as long as Retry-After says, and try again")
        self.seconds = seconds


class EnrolmentRefused(VaultError):
    """Not a token of an enrolment that is open now."""

    def __init__(self) -> None:
        super().__init__(
            "this enrolment token is not valid: used, replaced, expired or mistyped; ask for a new one"
        )


class InvalidInput(VaultError):
    """The request cannot be carried out as it was written."""


class InvalidName(InvalidInput):
    """A document name that is empty, too long, or holds characters that mislead a reader."""


class InvalidValue(InvalidInput):
    """A value outside its allowed form."""


class InvalidPageToken(InvalidInput):
    """Not a token that this list handed out for these filters."""

    def __init__(self) -> None:
        super().__init__("page_token does not belong to this list; start again without it")


class UnknownClass(InvalidInput):
    """No class of that name."""

    def __init__(self) -> None:
        super().__init__("no such class; GET /v1/classes lists them")


class TooLarge(InvalidInput):
    """The body exceeds what its class allows."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the class allows at most {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class MediaTypeNotAllowed(InvalidInput):
    """The bytes are not of a type that the class takes."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(f"the class takes only {', '.join(allowed)}, judged by the content")
        self.allowed = allowed


class DocumentNotFit(InvalidInput):
    """A document cannot move to a class that would have refused one of its versions."""


class Conflict(VaultError):
    """The request is well-formed and does not fit the present state."""


class PreconditionFailed(Conflict):
    """If-Match names another version than the newest."""

    def __init__(self) -> None:
        super().__init__("the document has changed since; fetch it again and repeat")


class DocumentInBin(Conflict):
    """The document lies in the bin."""

    def __init__(self) -> None:
        super().__init__("the document is in the bin; undelete it first")


class DocumentNotInBin(Conflict):
    """Only a document in the bin can be undeleted."""

    def __init__(self) -> None:
        super().__init__("the document is not in the bin")


class DocumentHeld(Conflict):
    """A legal hold lies on the document."""

    def __init__(self) -> None:
        super().__init__("a legal hold lies on the document; it cannot be removed before release")


class AlreadyExists(Conflict):
    """A class, principal or hold of that name exists."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"a {kind} of this name exists already")


class TooManyKeys(Conflict):
    """A principal has at most two live API keys: the old one and its successor."""

    def __init__(self) -> None:
        super().__init__("this principal has two live API keys; revoke one first")


class KeyVersionInUse(Conflict):
    """Stored documents are still wrapped under a version that was to be retired."""

    def __init__(self) -> None:
        super().__init__("documents are still wrapped under an older version; rewrap them first")


class JobUnderWay(Conflict):
    """One job of a kind at a time."""

    def __init__(self) -> None:
        super().__init__("a job of this kind is queued or running; GET /v1/jobs shows it")


class JobEnded(Conflict):
    """The job is in a state that does not allow this."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the job is {state}")


class OutlookWorse(Conflict):
    """A failover would put more out of reach than its caller has accepted."""

    def __init__(self, only_elsewhere: int) -> None:
        super().__init__(
            f"{only_elsewhere} stored versions are only at the other site, more than was accepted; "
            "look again, and accept that number"
        )
        self.only_elsewhere = only_elsewhere


class SweepHeld(Conflict):
    """After a restore or a failover nothing unexplained is removed before a person confirms."""

    def __init__(self) -> None:
        super().__init__(
            "since a restore or failover the database may be older than the objects; "
            "confirm the sweep first"
        )


class DutiesConflict(Conflict):
    """One person would do what two have to do."""

    def __init__(self) -> None:
        super().__init__(
            "the person holds a role of another duty, and nobody has two of them; revoke that role first"
        )


class ApprovalOver(Conflict):
    """The approval was decided, withdrawn or not decided in time."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the approval is {state}; ask for another one where it is still needed")


class SetupIncomplete(Conflict):
    """Set-up cannot be closed while nobody is there to carry on."""

    def __init__(self) -> None:
        super().__init__(
            "set-up ends once there are two security administrators, an operator and an auditor who can "
            "sign in; grant those roles first"
        )


class IdempotencyInFlight(Conflict):
    """The first request with this Idempotency-Key is still running."""

    def __init__(self) -> None:
        super().__init__("a request with this Idempotency-Key is still running; retry later")


class IdempotencyMismatch(InvalidInput):
    """The Idempotency-Key was used for another request."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used for a different request; take a new one")


class IntegrityFailure(VaultError):
    """Stored bytes or keys are not what the database says; nothing of them was handed out."""

    def __init__(self) -> None:
        super().__init__("the stored object does not match its record; operators have been alarmed")


class Unavailable(VaultError):
    """A dependency is away; nothing was changed, or a subclass says what."""


class DatabaseUnavailable(Unavailable):
    """PostgreSQL cannot be reached or shut the connection."""

    def __init__(self) -> None:
        super().__init__("the database is not available")


class NotReplicated(Unavailable):
    """PostgreSQL's standby did not confirm a commit that is done here, and would be lost with this server."""

    def __init__(self) -> None:
        super().__init__(
            "what you sent is stored here, but not confirmed by the standby database, so it does not count: "
            "look again later, or send it again with the same Idempotency-Key"
        )


class KekVersionGone(Unavailable):
    """A row would be wrapped under a version that was retired, or is not known yet."""

    def __init__(self) -> None:
        super().__init__("the keys are changing just now; send it again")


class RecoveryOutdated(Unavailable):
    """A row would be sealed under another recovery epoch than the newest."""

    def __init__(self) -> None:
        super().__init__("the recovery keys are changing just now; send it again")


class SiteFenced(Unavailable):
    """This process works for a site that was failed over, or under a site epoch that is over."""

    def __init__(self) -> None:
        super().__init__("this site was failed over to the other one; send it there")


class SignInBusy(Unavailable):
    """Checking a password takes much memory, so no more than a few are checked at a time."""

    def __init__(self) -> None:
        super().__init__("too many people are signing in just now; try again")


class PeerAway(Unavailable):
    """A document of a class with the durability `sync` cannot be stored at both sites just now."""

    def __init__(self) -> None:
        super().__init__(
            "the class asks for both sites at once and one is away; send it again later"
        )


class StandbyAway(Unavailable):
    """A document of a class with the durability `sync`, and no synchronous standby to commit it at."""

    def __init__(self) -> None:
        super().__init__(
            "the class asks for a commit at PostgreSQL's synchronous standby too, and there is none now; "
            "send it again later"
        )


class UploadLost(Unavailable):
    """The upload's row was swept: this process looked dead for longer than the grace."""

    def __init__(self) -> None:
        super().__init__("the upload took a pause too long to be told from a crash; send it again")
