"""A SLURM of two nodes on the loopback of this machine, without systemd and cgroups."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import free_ports

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
NODES = ("n1", "n2")
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # daemons are not on every PATH
PATIENCE = 900  # seconds, on a busy machine
UNENDED = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")  # states of jobs

# SLURM replaces %n by the node. Lightning derives a port from the job number, so each cluster starts at another.
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=2
StateSaveLocation={root}
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 State=UNKNOWN\n"


def missing() -> str:
    """Why no cluster can start here; empty if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
    if absent:
        return (f"no SLURM: {', '.join(absent)} not found (apt-get install --no-install-recommends slurmctld slurmd "
                "slurm-client munge)")  # fmt: skip
    return "" if os.geteuid() == 0 else "SLURM's daemons are started as root only"


def until(found: Callable[[], object], what: Callable[[], str], patience: float = PATIENCE) -> None:
    """Waits until something is found; fails with a message after a while."""
    end = time.monotonic() + patience
    while not found():
        assert time.monotonic() < end, what()
        time.sleep(0.1)


class Cluster:
    """The commands of a running SLURM.

    Args:
        root: The folder of its configuration, state and logs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}

    def run(self, *command: str, check: bool = True) -> str:
        """Returns the output of a command."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0 or not check, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """SLURM's fields of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self, number: str) -> str:
        """What a job has printed; "" before it has."""
        path = Path(self.job(number)["StdOut"])
        return path.read_text(errors="replace") if path.is_file() else ""

    def report(self, number: str) -> str:
        """What is known about a job that did not do what it should."""
        return f"{self.job(number)}\n{self.log(number)}"

    def check_unended(self, number: str) -> None:
        """Fails if a job has ended."""
        assert self.job(number)["JobState"] in UNENDED, self.report(number)

    def requeued(self, number: str, times: int) -> None:
        """Waits until a job is requeued, and starts it before SLURM's two minutes are over."""

        def queued() -> bool:
            self.check_unended(number)
            found = self.job(number)
            return found["Restarts"] == str(times) and found["JobState"] == "PENDING"

        until(queued, lambda: self.report(number))
        # a node takes no credential for a job that is as old, in whole seconds, as when it revoked the job's last one
        self.run("scontrol", "update", f"JobId={number}", "StartTime=now+2")

    def ended(self, number: str) -> str:
        """Waits for the end of a job and returns its state."""
        until(lambda: self.job(number)["JobState"] not in UNENDED, lambda: self.report(number))
        return self.job(number)["JobState"]


@contextmanager
def cluster(root: Path) -> Iterator[Cluster]:
    """Starts a SLURM of two nodes; ends it with all its jobs."""
    host = socket.gethostname().split(".")[0]
    port, *ports = free_ports(1 + len(NODES))
    nodes = [NODE.format(name=name, host=host, port=each) for name, each in zip(NODES, ports, strict=True)]
    partition = f"PartitionName=main Nodes={','.join(NODES)} Default=YES\n"
    (root / "slurm.conf").write_text(CONFIG.format(host=host, port=port, root=root) + "".join(nodes) + partition)
    (root / "munge.key").write_bytes(os.urandom(128))
    (root / "munge.key").chmod(0o400)
    slurm = Cluster(root)
    daemons: list[subprocess.Popen[bytes]] = []

    def start(name: str, *options: str) -> None:
        with (root / f"{name}.out").open("ab") as out:
            program = shutil.which(name, path=SEARCHED) or name
            daemons.append(subprocess.Popen([program, *options], env=slurm.environment, stdout=out, stderr=out,
                                            start_new_session=True))  # fmt: skip

    try:
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        start("munged", "--foreground", "--force", *(f"--{key}={root}/munge.{end}" for key, end in files.items()))
        until((root / "munge.socket").exists, lambda: (root / "munged.out").read_text(), patience=60)
        start("slurmctld", "-D", "-c")
        for name in NODES:
            start("slurmd", "-D", "-N", name)
        idle = "\n".join(["idle"] * len(NODES))
        until(
            lambda: slurm.run("sinfo", "--noheader", "--Node", "--format", "%t", check=False) == idle,
            lambda: (root / "slurmctld.log").read_text(),
            patience=60,
        )
        yield slurm
    finally:
        slurm.run("scancel", "--user=root", check=False)
        end = time.monotonic() + 60
        while time.monotonic() < end and slurm.run("squeue", "--noheader", check=False):
            time.sleep(0.2)
        for daemon in reversed(daemons):  # the nodes, then their head, then what they prove themselves with
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
