"""The root key is taken from a safe file only, and each refusal says what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from keymgmt.errors import UnsafeKeyFile
from keymgmt.rootkey import CREDENTIAL_NAME, RootKey, create_root_key, load_root_key

RAW = bytes(range(32))
PASSPHRASE = "correct horse 电池 staple"


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A raw key file as it should be."""
    return write(tmp_path / "keys" / "root.key", RAW)


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def raw(root_key: RootKey) -> bytes:
    return root_key.reveal_to_keymgmt()


# The raw key file


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_key_file_is_taken(key_file: Path, data_folder: Path, mode: int) -> None:
    key_file.chmod(mode)
    assert raw(load_root_key(key_file, data_folder=data_folder)) == RAW


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o700, 0o4600])
def test_any_other_mode_is_refused(key_file: Path, data_folder: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(UnsafeKeyFile, match=rf"mode {mode:04o}: run `chmod 0600`"):
        load_root_key(key_file, data_folder=data_folder)


def test_a_foreign_owner_is_refused(key_file: Path, data_folder: Path) -> None:
    foreign = key_file
    if os.geteuid() == 0:
        os.chown(key_file, 12345, -1)
    else:
        foreign = Path("/etc/passwd")
    with pytest.raises(UnsafeKeyFile, match="belongs to user"):
        load_root_key(foreign, data_folder=data_folder)


def test_a_symbolic_link_is_refused(key_file: Path, data_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(key_file)
    with pytest.raises(UnsafeKeyFile, match="symbolic link"):
        load_root_key(link, data_folder=data_folder)


def test_a_link_to_itself_is_refused(data_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(link)
    with pytest.raises(UnsafeKeyFile, match="symbolic link"):
        load_root_key(link, data_folder=data_folder)


def test_a_pipe_in_the_place_of_the_key_is_refused_at_once(
    data_folder: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "root.key", 0o600)
    with pytest.raises(UnsafeKeyFile, match="not a regular file"):
        load_root_key(tmp_path / "root.key", data_folder=data_folder)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64, 5000])
def test_a_key_of_another_length_is_refused(data_folder: Path, tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "root.key", b"k" * size)
    with pytest.raises(UnsafeKeyFile, match="32 bytes"):
        load_root_key(path, data_folder=data_folder)


def test_a_missing_key_is_refused_and_not_made(data_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    with pytest.raises(UnsafeKeyFile, match="missing"):
        load_root_key(path, data_folder=data_folder)
    assert not path.exists()


@pytest.mark.parametrize("place", ["root.key", "deep/below/root.key"])
def test_a_key_below_the_data_folder_is_refused(data_folder: Path, place: str) -> None:
    path = data_folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, RAW)
    with pytest.raises(UnsafeKeyFile, match="move it elsewhere"):
        load_root_key(path, data_folder=data_folder)


def test_a_detour_through_links_does_not_hide_the_data_folder(
    data_folder: Path, tmp_path: Path
) -> None:
    write(data_folder / "root.key", RAW)
    (tmp_path / "innocent").symlink_to(data_folder)
    with pytest.raises(UnsafeKeyFile, match="move it elsewhere"):
        load_root_key(tmp_path / "innocent" / "root.key", data_folder=data_folder)
    with pytest.raises(UnsafeKeyFile, match="move it elsewhere"):
        load_root_key(data_folder / "root.key", data_folder=tmp_path / "innocent")


# The passphrase


def test_a_sealed_key_file_opens_with_its_passphrase(data_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "root.key"
    made = create_root_key(path, data_folder=data_folder, passphrase=PASSPHRASE)
    loaded = load_root_key(path, data_folder=data_folder, passphrase=PASSPHRASE)
    assert raw(loaded) == raw(made)
    assert raw(made) not in path.read_bytes()


def test_a_wrong_passphrase_is_refused(data_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    create_root_key(path, data_folder=data_folder, passphrase=PASSPHRASE)
    with pytest.raises(UnsafeKeyFile, match="passphrase is wrong") as refused:
        load_root_key(path, data_folder=data_folder, passphrase="Tr0ub4dor&3")
    assert "Tr0ub4dor" not in str(refused.value)


def test_a_sealed_key_file_without_passphrase_is_refused(data_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    create_root_key(path, data_folder=data_folder, passphrase=PASSPHRASE)
    with pytest.raises(UnsafeKeyFile, match="set the passphrase"):
        load_root_key(path, data_folder=data_folder)


def test_a_raw_key_file_with_passphrase_is_refused(key_file: Path, data_folder: Path) -> None:
    with pytest.raises(UnsafeKeyFile, match="remove the passphrase"):
        load_root_key(key_file, data_folder=data_folder, passphrase=PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "strongroom-root-key/2"},
        {"salt": "AAAA"},
        {"salt": "not base64"},
        {"salt": None},
        {"sealed_key": ""},
        {"sealed_key": 5},
    ],
    ids=str,
)
def test_a_sealed_key_file_of_another_shape_is_refused(
    data_folder: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "root.key"
    create_root_key(path, data_folder=data_folder, passphrase=PASSPHRASE)
    write(path, json.dumps({**json.loads(path.read_bytes()), **change}).encode())
    with pytest.raises(UnsafeKeyFile, match="not a key file sealed"):
        load_root_key(path, data_folder=data_folder, passphrase=PASSPHRASE)


@pytest.mark.parametrize("content", [b"[]", b"{", b"null", b"[" * 4000, b"\xff\xfe"], ids=repr)
def test_json_of_another_kind_is_refused(data_folder: Path, tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "root.key", content)
    with pytest.raises(UnsafeKeyFile, match="not a key file sealed"):
        load_root_key(path, data_folder=data_folder, passphrase=PASSPHRASE)


# The credential


def test_a_credential_comes_before_the_key_file(
    key_file: Path, data_folder: Path, tmp_path: Path
) -> None:
    write(tmp_path / "credentials" / CREDENTIAL_NAME, b"c" * 32, 0o400)
    loaded = load_root_key(
        key_file, data_folder=data_folder, credentials_folder=tmp_path / "credentials"
    )
    assert raw(loaded) == b"c" * 32


def test_without_the_credential_the_key_file_counts(
    key_file: Path, data_folder: Path, tmp_path: Path
) -> None:
    loaded = load_root_key(key_file, data_folder=data_folder, credentials_folder=tmp_path)
    assert raw(loaded) == RAW


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [(b"c" * 32, 0o444, "mode 0444"), (b"c" * 31, 0o400, "32 bytes")],
    ids=["readable by all", "too short"],
)
def test_a_bad_credential_is_refused_and_not_passed_over(
    key_file: Path, data_folder: Path, tmp_path: Path, content: bytes, mode: int, says: str
) -> None:
    write(tmp_path / "credentials" / CREDENTIAL_NAME, content, mode)
    with pytest.raises(UnsafeKeyFile, match=says):
        load_root_key(
            key_file, data_folder=data_folder, credentials_folder=tmp_path / "credentials"
        )


# Making one


def test_a_root_key_is_made_private_and_loads_again(data_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "root.key"
    before = os.umask(0)
    try:
        made = create_root_key(path, data_folder=data_folder)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert raw(load_root_key(path, data_folder=data_folder)) == raw(made)
    assert [file.name for file in path.parent.iterdir()] == ["root.key"]


def test_a_root_key_is_never_replaced(key_file: Path, data_folder: Path) -> None:
    with pytest.raises(UnsafeKeyFile, match="File exists"):
        create_root_key(key_file, data_folder=data_folder)
    assert key_file.read_bytes() == RAW
    assert [file.name for file in key_file.parent.iterdir()] == ["root.key"]


def test_a_root_key_is_not_made_in_the_data_folder(data_folder: Path) -> None:
    with pytest.raises(UnsafeKeyFile, match="move it elsewhere"):
        create_root_key(data_folder / "root.key", data_folder=data_folder)
    assert list(data_folder.iterdir()) == []


def test_a_place_that_takes_no_file_is_refused(data_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnsafeKeyFile, match="cannot be made"):
        create_root_key(tmp_path / "file" / "root.key", data_folder=data_folder)
