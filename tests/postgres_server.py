"""A real PostgreSQL that the tests start, break and stop: Debian's binaries, unprivileged, in a temporary folder.

It is for loopback only, with a password that no message may show. `fsync` is off: what is tried is the death of
processes and not of machines.
"""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

PASSWORD = "Geheim:7@/x%y"
USER = "worker"
PATIENCE = 30.0


def find_binaries():
    """Return the folder with `initdb` and `postgres`, or None."""
    found = shutil.which("initdb")
    debians = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders = [*debians, *([Path(found).parent] if found else [])]
    return next((each for each in folders if all((each / name).exists() for name in ("initdb", "postgres"))), None)


def why_not():
    """Return why there can be no server here, or None."""
    if os.name == "nt":
        return "the server's signals are POSIX's"
    if find_binaries() is None:
        return "PostgreSQL's initdb and postgres are not installed"
    if os.geteuid() == 0 and unprivileged() is None:
        return "PostgreSQL refuses root, and there is no user to run it as"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return None


def unprivileged():
    """Return the user to run as, where we are root."""
    import pwd

    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


class Server:
    """A server of its own, in a folder of its own."""

    def __init__(self, *, folder=None, settings=()):
        self.folder = Path(folder or tempfile.mkdtemp(prefix="trioflow-pg-"))
        self.data = self.folder / "data"
        self._settings = settings
        self._binaries = find_binaries()
        self._names = itertools.count(1)
        self._as = {}
        if os.geteuid() == 0:
            user = unprivileged()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process = None
        self.port = None

    def make(self):
        """Make its files."""
        secret = self.folder / "secret"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        command = [
            self._binaries / "initdb", "-D", self.data, "-U", USER, f"--pwfile={secret}", "--no-sync",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
        ]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False, **self._as)
        assert done.returncode == 0, done.stderr
        with (self.data / "postgresql.conf").open("a") as file:
            for line in (
                "fsync = off", "full_page_writes = off", "shared_buffers = 16MB", "max_connections = 40",
                "autovacuum = off", f"unix_socket_directories = '{self.folder}'", "listen_addresses = '127.0.0.1'",
                "max_wal_size = 256MB", "min_wal_size = 32MB", "password_encryption = scram-sha-256", *self._settings,
            ):
                file.write(line + "\n")

    def start(self):
        """Start it, and wait until it can be asked."""
        if self.port is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, "-p", str(self.port)],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._as,
            )
        self.wait()

    def wait(self):
        """Wait until it can be asked."""
        import psycopg

        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("SELECT 1")
            except psycopg.OperationalError as error:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                if time.monotonic() >= until:
                    raise AssertionError(f"no server: {error}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self, how=signal.SIGINT):
        """Stop it: SIGINT is `fast`, SIGQUIT `immediate`, which is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def restart(self, how):
        """Stop it, and start it on the same port."""
        self.stop(how)
        self.start()

    def pause(self):
        """Stop all of its processes where they are."""
        # Its children first may have children of their own in the meantime; the one that makes them goes first.
        for process in (self._process.pid, *self._children()):
            os.kill(process, signal.SIGSTOP)

    def go_on(self):
        """Let all of its processes go on."""
        for process in (*self._children(), self._process.pid):
            os.kill(process, signal.SIGCONT)

    def _children(self):
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def remove(self):
        """Stop it, and remove its files."""
        try:
            if self._process is not None:
                self.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, **options):
        """Return a connection of the driver's own."""
        import psycopg

        url = f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"
        return psycopg.connect(url, password=PASSWORD, autocommit=True, connect_timeout=5, **options)

    def ask(self, query, values=None, schema=None):
        """Return the rows of a query, in a connection of its own."""
        with self.connect(**({"options": f"-csearch_path={schema}"} if schema else {})) as db:
            cursor = db.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def new_schema(self):
        """Make a schema, which is a store of its own, and return its name."""
        name = f"store_{next(self._names)}"
        self.ask(f"CREATE SCHEMA {name}")
        return name

    def url(self, schema=None, **options):
        """Return the URL of the store in a schema: a new one, if none is named."""
        schema = schema or self.new_schema()
        more = "".join(f"&{name}={value}" for name, value in options.items())
        where = f"{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}"
        return f"postgresql://{where}/postgres?options=-csearch_path%3D{schema}{more}"
