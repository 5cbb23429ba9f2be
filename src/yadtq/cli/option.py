"""Options that several commands have. One invariant: an option of one name means the same in all of them."""

from typing import Annotated

import typer

Kafka = Annotated[str | None, typer.Option(help="Kafka's address.")]
Redis = Annotated[str | None, typer.Option(help="Redis's address.")]
