"""Writes glomflow.yaml, the conda environment, from requirements.lock."""

from pathlib import Path

HERE = Path(__file__).resolve().parent


def conda_environment(lock: str) -> str:
    """Returns the conda environment that holds the pins of a lock file.

    Args:
        lock: Text of ``requirements.lock``.
    """
    lines = [line.strip() for line in lock.splitlines() if line.strip() and not line.startswith("#")]
    # A condition names Pythons other than the environment's.
    pins = [line.partition(" ;")[0] for line in lines]
    head = "channels:\n  - conda-forge\n  - nodefaults\ndependencies:\n  - python =3.11\n  - pip\n  - pip:\n"
    return head + "".join(f"      - {pin}\n" for pin in pins)


if __name__ == "__main__":
    lock_text = (HERE.parent / "requirements.lock").read_text(encoding="utf-8")
    (HERE / "glomflow.yaml").write_text(conda_environment(lock_text), encoding="utf-8")
