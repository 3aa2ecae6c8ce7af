"""What a command line says before Hydra sees it."""

_GROUPS = ("model", "data")


def replace_groups_by_targets(arguments: list[str]) -> list[str]:
    """Select the empty group ``custom`` wherever a class is named without a group to go with it.

    ``model._target_=pkg.Net`` means "run this class", and not "call it with the arguments of our default model".
    Arguments for it are added with ``+model.width=64``; ``model=mlp model._target_=pkg.MLP`` keeps the group's.

    Args:
        arguments: the command line after the program's name.

    Returns:
        The same arguments, with ``model=custom`` and ``data=custom`` before the targets they make room for.
    """
    selected = {argument.split("=")[0] for argument in arguments}
    replaced: list[str] = []
    for argument in arguments:
        group = argument.partition("._target_=")[0]
        if group != argument and group in _GROUPS and group not in selected:
            replaced.append(f"{group}=custom")
        replaced.append(argument)
    return replaced
