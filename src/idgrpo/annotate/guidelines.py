"""The organiser's guidelines: Markdown in, HTML out that can hold no script and fetches nothing."""

from idgrpo.errors import DataError

MAX_BYTES = 200_000


def read_guidelines(path: str | None) -> str:
    """Read the Markdown file; '' without one. Errors: DataError when it cannot be read or is no text."""
    if path is None:
        return ""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise DataError(
                f"{path}: guidelines of more than {MAX_BYTES} bytes", fix="shorten them: people have to read them"
            )
        return content.decode("utf-8")
    except OSError as error:
        raise DataError(
            f"{path}: the guidelines cannot be read ({error.strerror})", fix="name a Markdown file"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the guidelines are no UTF-8 text", fix="save the file as UTF-8") from error


def render(markdown: str) -> str:
    """Turn Markdown into HTML: raw HTML becomes text, and pictures, which the page could not fetch, become their words."""
    from markdown_it import MarkdownIt

    return (
        MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(markdown) if markdown else ""
    )
