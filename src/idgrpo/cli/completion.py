"""`idgrpo --install-completion`: commands and options by the tabulator key, from a file written once; no start of Python a key."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from idgrpo.cli import COMMANDS
from idgrpo.cli.output import write_lines
from idgrpo.errors import UsageError

Words = dict[str, list[str]]
"""What may follow: '' holds the commands, a command its subcommands or options, `command subcommand` the options of that."""

BASH = """# Completion of idgrpo; written by `idgrpo --install-completion`.
_idgrpo() {{
  local words=""
  case "${{COMP_WORDS[1]:-}} ${{COMP_WORDS[2]:-}}" in
{two}
    *) case "${{COMP_WORDS[1]:-}}" in
{one}
    esac ;;
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _idgrpo idgrpo
"""


def words_of(load: Callable[[str], Any]) -> Words:
    """Ask every command for its options; load: imports a command by name."""
    words: Words = {"": [*COMMANDS, "help", "version"], "help": [*COMMANDS]}
    for name in COMMANDS:
        command = load(name)
        words[name] = [*getattr(command, "commands", {}), *_options(command)]
        words |= {f"{name} {sub}": _options(one) for sub, one in getattr(command, "commands", {}).items()}
    return words


def _options(command: Any) -> list[str]:
    found = [option for one in command.params for option in one.opts if option.startswith("--")]
    return sorted({*found, "--help"})


def script(shell: str, words: Mapping[str, list[str]]) -> str:
    """Write the completion of a shell: bash, zsh or fish."""
    if shell == "fish":
        lines = [f"complete -c idgrpo -f -n __fish_use_subcommand -a '{' '.join(words[''])}'"]
        for name, found in words.items():
            seen = " ; and ".join(f"__fish_seen_subcommand_from {part}" for part in name.split())
            for word in found if name else ():
                flag = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
                lines.append(f"complete -c idgrpo -n '{seen}' {flag}")
        return "\n".join(lines) + "\n"
    one = "\n".join(f'      {n}) words="{" ".join(w)}" ;;' for n, w in words.items() if n and " " not in n)
    two = "\n".join(f'    "{n}") words="{" ".join(w)}" ;;' for n, w in words.items() if " " in n)
    text = BASH.format(one=one, two=two, commands=" ".join(words[""]))
    return "autoload -U +X bashcompinit && bashcompinit\n" + text if shell == "zsh" else text


def target(shell: str, home: Path) -> Path:
    """Say where a shell looks for completions (zsh: where ours lies)."""
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = {
        "bash": data / "bash-completion/completions/idgrpo",
        "zsh": data / "idgrpo/completion.zsh",
        "fish": settings / "fish/completions/idgrpo.fish",
    }
    if shell not in places:
        raise UsageError(
            f"there is no completion for the shell '{shell}'",
            fix=f"--install-completion SHELL, one of {', '.join(places)}",
        )
    return places[shell]


def install(arguments: list[str], load: Callable[[str], Any]) -> int:
    """Write the completion of the shell that is named, or of $SHELL, and say how it gets into force."""
    shell = arguments[0] if arguments else Path(os.environ.get("SHELL", "")).name
    file = target(shell, Path.home())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script(shell, words_of(load)), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", fix="make its folder writable") from None
    then = f"add to ~/.zshrc: source {file}" if shell == "zsh" else "new shells use it"
    if shell == "bash":
        then += f" (where bash-completion is installed; else add to ~/.bashrc: source {file})"
    write_lines([f"{file} written; {then}"])
    return 0
