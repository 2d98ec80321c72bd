"""The file of a recovery key's private half: sealed under a passphrase, kept offline.

As `sealedkey` lays it out, with the format "strongroom-recovery-key/1"; the sealed 32 bytes are the
seed of `recoverykey`.

Does not handle: where copies are kept. A lost file or passphrase is not replaced by anything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from keymgmt import privatefile, sealedkey
from keymgmt.errors import UnsafeKeyFile
from keymgmt.recoverykey import RecoveryPrivateKey

_FORMAT: Final = "strongroom-recovery-key/1"


def write_private(path: Path, key: RecoveryPrivateKey, passphrase: str) -> None:
    """Write the file, durable and of mode 0600 when this returns.

    Raises:
        UnsafeKeyFile: the passphrase is empty, a file is there already (none is ever replaced), or
            none can be written.
    """
    if not passphrase:
        raise UnsafeKeyFile("a recovery key is never kept without a passphrase: choose one")
    privatefile.create(path, sealedkey.seal(_FORMAT, key.reveal_to_keymgmt(), passphrase))


def read_private(path: Path, passphrase: str) -> RecoveryPrivateKey:
    """The private half in a file that only the calling user can read.

    Raises:
        UnsafeKeyFile: the message says what is wrong and what to do.
    """
    content = privatefile.read(path, {os.geteuid()})
    return RecoveryPrivateKey(sealedkey.unseal(_FORMAT, content, passphrase, path))
