"""The hello world: `yadtq up`, then `yadtq worker examples.hello:app`, then `python examples/hello.py` prints 3."""

import yadtq

app = yadtq.App("hello")


@app.task
def add(a: int, b: int) -> int:
    """a + b"""
    return a + b


if __name__ == "__main__":
    handle = add.submit(1, 2)
    print(handle.result(timeout_s=10))
