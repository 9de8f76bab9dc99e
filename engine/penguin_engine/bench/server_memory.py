"""Resident memory of the process that listens on a port of this machine, with all of its children."""

from __future__ import annotations

import ipaddress

import psutil


def listening_process(host: str, port: int) -> psutil.Process | None:
    """Returns the process; None if no process of this user listens there."""
    if not _is_local(host):
        return None
    try:
        for item in psutil.net_connections("tcp"):
            if item.status == psutil.CONN_LISTEN and item.laddr.port == port and item.pid is not None:
                return psutil.Process(item.pid)
    except psutil.Error:  # it has ended, or the system tells only its administrator
        pass
    return None


def resident_mib(process: psutil.Process) -> float:
    """Returns the memory in MiB of a process and its children; raises psutil.Error if it has ended."""
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return float(total / 2**20)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
