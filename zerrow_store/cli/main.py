"""The `zerrow` command."""

import os
import sys

import click

from zerrow_store.cli import cache, memory, metrics, objects, status
from zerrow_store.cli.doctor import doctor
from zerrow_store.cli.report.command import report
from zerrow_store.cli.top import top
from zerrow_store.errors import ZerrowError


@click.group(name="zerrow")
def zerrow() -> None:
    """Object stores in which Arrow data is shared, not copied.

    In a Ray cluster the commands are about the stores of all its nodes; `--node` chooses one,
    `--name` a store of this machine.
    """


for command in (
    status.start,
    status.stop,
    status.status,
    objects.objects,
    objects.copies,
    memory.memory,
    memory.evictions,
    cache.cache,
    metrics.metrics,
    metrics.print_dashboard,
    top,
    report,
    doctor,
):
    zerrow.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 when it could not do what it was asked, 2 when
    it was asked wrongly.
    """
    try:
        code: int | None = zerrow.main(arguments, "zerrow", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:  # as of `| head`; nothing more can be printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ZerrowError, OSError, ValueError) as error:
        click.echo(f"zerrow: {error}", err=True)
        return 1
    except (click.Abort, KeyboardInterrupt):
        return 130
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
