#!/usr/bin/env python3
"""Recomputes the root of an audit log from its entries and compares it with a signed checkpoint that you kept.

    verify_audit.py AUDIT_FOLDER CHECKPOINT_FILE VERIFIER_KEY

Nothing of Tollgate is used. With the package `cryptography` the signatures are checked as well. Of an erased entry only the hash
is proved, so it is checked that retention may have erased it: a beginning of a tenant's entries, never the operator's.
"""
import base64, glob, hashlib, json, os, sys


def fail(reason):
    sys.exit(f"NOT IN ORDER: {reason}")


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaves(folder, heads):
    """The hash of each entry (RFC 9162, 2.1.1); an erased one has left its hash. Checks the heads after so many entries."""
    n, whole, chains, sealed = 0, set(), {}, max(heads, default=0)
    for path in sorted(glob.glob(os.path.join(folder, "entries-*.jsonl"))):
        for line in open(path, "rb"):
            line, last = line.rstrip(b"\n"), {}
            try:
                last = json.loads(line)
            except ValueError:
                fail(f"entry {n} cannot be read")
            if last.get("n") != n:
                fail(f"entry {n} says that it is entry {last.get('n')}")
            erased, tenant = last.get("erased"), last.get("tenant")
            before = chains.get(tenant, [None, 0])
            if last.get("prev") != before[0] and tenant:
                fail(f"entry {n} says that {tenant}'s entry before it is {last.get('prev')}, which is {before[0]}")
            if erased and not tenant:
                fail(f"entry {n} is erased, but no tenant's: those are kept for ever")
            if erased and tenant in whole:
                fail(f"entry {n} is erased, but an earlier entry of the same tenant is not")
            if erased and n >= sealed:
                fail(f"entry {n} is erased, but no heads that are kept come after it")
            if not erased:
                whole.add(tenant)
            if tenant:
                chains[tenant] = [n, before[1] + 1]
            if heads.get(n + 1, chains) != chains:
                fail(f"the heads after entry {n + 1} are not those of its entries")
            yield base64.b64decode(erased) if erased else hashlib.sha256(b"\x00" + line).digest()
            n += 1


def root(folder, size, heads):
    peaks, count = [], 0  # Roots of the complete subtrees, the largest first.
    for leaf in leaves(folder, heads):
        count += 1
        if count <= size:
            peaks.append(leaf)
            for _ in range((count & -count).bit_length() - 1):
                right = peaks.pop()
                peaks[-1] = node(peaks[-1], right)
        if count >= max(size, *heads, 0):  # The newest heads may come after the checkpoint.
            break
    if count < size:
        fail(f"the checkpoint is of {size} entries, the log has {count}: entry {count} and later ones are gone")
    if count < max(heads, default=0):
        fail(f"the heads after entry {max(heads)} are of entries that are not there")
    if not peaks:
        return hashlib.sha256(b"").digest()
    hash = peaks.pop()
    while peaks:
        hash = node(peaks.pop(), hash)
    return hash


def kept_heads(folder, vkey):
    """How many entries each tenant has, and its last, after so many of all: signed, too."""
    kept = {}
    for path in glob.glob(os.path.join(folder, "heads-*.note")):
        text, signatures = open(path, encoding="utf-8", newline="\n").read().rsplit("\n\n", 1)
        signature(text + "\n", signatures, vkey)
        heads = json.loads(text.split("\n")[1])
        kept[heads["size"]] = heads["tenants"]
    return kept


def signature(text, signatures, vkey):
    name, key_id, key = vkey.strip().split("+", 2)
    key = base64.b64decode(key)  # A byte that says Ed25519, then the key.
    if hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] != key_id:
        fail("the verifier key is no verifier key")
    own = [line.split(" ")[2] for line in signatures.splitlines() if line.startswith(f"\u2014 {name} ")]
    own = [raw for raw in map(base64.b64decode, own) if raw[:4].hex() == key_id]
    if not own:
        fail("a checkpoint, or heads, bear no signature by that key")
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return "signatures were NOT checked: install the package cryptography"
    try:
        Ed25519PublicKey.from_public_bytes(key[1:]).verify(own[0][4:], text.encode())
    except InvalidSignature:
        fail("the signature of a checkpoint, or of heads, is wrong")
    return "its signature is right"


folder, checkpoint, vkey = sys.argv[1:4]
text, signatures = open(checkpoint, encoding="utf-8", newline="\n").read().rsplit("\n\n", 1)
text += "\n"
origin, size, expected = text.split("\n")[:3]
signed = signature(text, signatures, vkey)
if base64.b64encode(root(folder, int(size), kept_heads(folder, vkey))).decode() != expected:
    fail(f"the root of the first {size} entries is not the one in the checkpoint")
print(f"in order: {origin}, {size} entries, root {expected}; {signed}")
