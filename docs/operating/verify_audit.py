#!/usr/bin/env python3
"""Recomputes the root of an audit log from its entries and compares it with a signed checkpoint that you kept.

    verify_audit.py AUDIT_FOLDER CHECKPOINT_FILE VERIFIER_KEY

Nothing of Tollgate is used. With the package `cryptography` the signature is checked as well.
"""
import base64, glob, hashlib, json, os, sys


def fail(reason):
    sys.exit(f"NOT IN ORDER: {reason}")


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaves(folder):
    """The hash of each entry (RFC 9162, 2.1.1); an erased one has left its hash."""
    n = 0
    for path in sorted(glob.glob(os.path.join(folder, "entries-*.jsonl"))):
        for line in open(path, "rb"):
            line, last = line.rstrip(b"\n"), {}
            try:
                last = json.loads(line)
            except ValueError:
                fail(f"entry {n} cannot be read")
            if last.get("n") != n:
                fail(f"entry {n} says that it is entry {last.get('n')}")
            erased = last.get("erased")
            yield base64.b64decode(erased) if erased else hashlib.sha256(b"\x00" + line).digest()
            n += 1


def root(folder, size):
    peaks, count = [], 0  # Roots of the complete subtrees, the largest first.
    for leaf in leaves(folder):
        if count == size:
            break
        count += 1
        peaks.append(leaf)
        for _ in range((count & -count).bit_length() - 1):
            right = peaks.pop()
            peaks[-1] = node(peaks[-1], right)
    if count < size:
        fail(f"the checkpoint is of {size} entries, the log has {count}: entry {count} and later ones are gone")
    if not peaks:
        return hashlib.sha256(b"").digest()
    hash = peaks.pop()
    while peaks:
        hash = node(peaks.pop(), hash)
    return hash


def signature(text, signatures, vkey):
    name, key_id, key = vkey.strip().split("+", 2)
    key = base64.b64decode(key)  # A byte that says Ed25519, then the key.
    if hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] != key_id:
        fail("the verifier key is no verifier key")
    own = [line.split(" ")[2] for line in signatures.splitlines() if line.startswith(f"\u2014 {name} ")]
    own = [raw for raw in map(base64.b64decode, own) if raw[:4].hex() == key_id]
    if not own:
        fail("the checkpoint bears no signature by that key")
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return "its signature was NOT checked: install the package cryptography"
    try:
        Ed25519PublicKey.from_public_bytes(key[1:]).verify(own[0][4:], text.encode())
    except InvalidSignature:
        fail("the signature of the checkpoint is wrong")
    return "its signature is right"


folder, checkpoint, vkey = sys.argv[1:4]
text, signatures = open(checkpoint, encoding="utf-8", newline="\n").read().rsplit("\n\n", 1)
text += "\n"
origin, size, expected = text.split("\n")[:3]
signed = signature(text, signatures, vkey)
if base64.b64encode(root(folder, int(size))).decode() != expected:
    fail(f"the root of the first {size} entries is not the one in the checkpoint")
print(f"in order: {origin}, {size} entries, root {expected}; {signed}")
