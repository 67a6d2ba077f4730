"""CURVE keys: who may talk to a learner, and as what.

    files        keys folders: made, given to a machine, read
    allow_list   the public keys that a learner accepts, each with a name and a role

A learner's keys folder:

    server.key, server.key_secret    its pair; every client needs server.key
    allowed/NAME.key                 "ROLE KEY": whom it lets in, read again every second
    NAME/                            what was made for NAME (`create_client`), to be copied to another machine
    actor/  host/  observer/         what this machine's own processes use

A client's keys folder, such as NAME/ above:

    server.key                       the learner's public key
    client.key, client.key_secret    a pair of its own; client.key says "ROLE KEY"

The trainer's key is in no folder of these: a learner makes it when it starts, for its own trainer process.
"""

from __future__ import annotations

from lamer.common.keys.allow_list import AllowList, Client
from lamer.common.keys.files import (
    ROLES,
    ClientKeys,
    ServerKeys,
    allow,
    create_client,
    create_keys,
    create_own_pair,
    described,
    ensure_keys,
    load_client_keys,
    load_server_keys,
    read_client_keys,
    write_trainer_keys,
)

__all__ = [
    "ROLES",
    "AllowList",
    "Client",
    "ClientKeys",
    "ServerKeys",
    "allow",
    "create_client",
    "create_keys",
    "create_own_pair",
    "described",
    "ensure_keys",
    "load_client_keys",
    "load_server_keys",
    "read_client_keys",
    "write_trainer_keys",
]
