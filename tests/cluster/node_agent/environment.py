"""The environment, command and working directory of a container's process. Pure: the caller looks objects up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .fields import pod_field, resource_field
from .images import Image
from .mounts import PathMap


class ConfigError(Exception):
    """A reference in the container's environment cannot be resolved; the text is the kubelet's."""


class Lookup(Protocol):
    """Reads the objects that an environment refers to; None when the object does not exist."""

    def secret(self, name: str) -> Mapping[str, bytes] | None: ...

    def config_map(self, name: str) -> Mapping[str, bytes] | None: ...


@dataclass(frozen=True, slots=True)
class Host:
    """What a container learns of its node."""

    address: str
    allocatable: Mapping[str, str]
    service_env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable. The value of a Secret is `opaque`: never rewritten, since a key may look like a path."""

    value: str
    opaque: bool = False


_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")
_ENV_NAME = re.compile(r"^[^=\x00]+$")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes' $(NAME) expansion: unknown names stay as they are, `$$` is a literal `$`."""

    def replace(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return values.get(match.group(2), match.group(0))

    return _REFERENCE.sub(replace, text)


def container_env(
    pod: Mapping[str, Any], container: Mapping[str, Any], host: Host, lookup: Lookup
) -> dict[str, Variable]:
    """The variables that the pod gives to one container, in the kubelet's order (services, envFrom, env).

    Raises ConfigError for a missing Secret, ConfigMap or key that is not optional.
    """
    variables = {name: Variable(value) for name, value in host.service_env.items()}
    for source in container.get("envFrom") or ():
        variables.update(_from_source(source, lookup))
    for entry in container.get("env") or ():
        name = str(entry["name"])
        if "valueFrom" in entry:
            variable = _from_reference(entry["valueFrom"], pod, container, host, lookup)
            if variable is not None:
                variables[name] = variable
        else:
            variables[name] = Variable(expand(str(entry.get("value") or ""), _plain(variables)))
    return variables


def _from_source(source: Mapping[str, Any], lookup: Lookup) -> Iterable[tuple[str, Variable]]:
    prefix = source.get("prefix") or ""
    opaque = "secretRef" in source
    reference = source.get("secretRef") or source.get("configMapRef") or {}
    data = _data(reference, lookup, secret=opaque)
    for key, value in sorted((data or {}).items()):
        if _ENV_NAME.match(prefix + key):
            yield prefix + key, Variable(_decode(value), opaque)


def _from_reference(
    reference: Mapping[str, Any], pod: Mapping[str, Any], container: Mapping[str, Any], host: Host, lookup: Lookup
) -> Variable | None:
    if field := reference.get("fieldRef"):
        return Variable(pod_field(pod, field["fieldPath"], host.address))
    if field := reference.get("resourceFieldRef"):
        return Variable(resource_field(_resource_container(pod, container, field), field, host.allocatable))
    opaque = "secretKeyRef" in reference
    selector = reference.get("secretKeyRef") or reference.get("configMapKeyRef")
    if selector is None:
        raise ConfigError(f"unsupported env source: {', '.join(sorted(reference))}")
    data = _data(selector, lookup, secret=opaque)
    if data is None:
        return None
    if selector["key"] not in data:
        if selector.get("optional"):
            return None
        kind = "Secret" if opaque else "ConfigMap"
        raise ConfigError(
            f"couldn't find key {selector['key']} in {kind} {pod['metadata']['namespace']}/{selector['name']}"
        )
    return Variable(_decode(data[selector["key"]]), opaque)


def _resource_container(
    pod: Mapping[str, Any], container: Mapping[str, Any], field: Mapping[str, Any]
) -> Mapping[str, Any]:
    wanted = field.get("containerName")
    for candidate in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())):
        if wanted and candidate["name"] == wanted:
            return candidate  # type: ignore[no-any-return]
    return container


def _data(reference: Mapping[str, Any], lookup: Lookup, *, secret: bool) -> Mapping[str, bytes] | None:
    name = str(reference.get("name", ""))
    data = lookup.secret(name) if secret else lookup.config_map(name)
    if data is None and not reference.get("optional"):
        raise ConfigError(f'{"secret" if secret else "configmap"} "{name}" not found')
    return data


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _plain(variables: Mapping[str, Variable]) -> dict[str, str]:
    return {name: variable.value for name, variable in variables.items()}


@dataclass(frozen=True, slots=True)
class Invocation:
    """What to start: argv is empty when neither the pod nor the image says so; working_dir is empty likewise."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str


def invocation(
    container: Mapping[str, Any],
    image: Image | None,
    variables: Mapping[str, Variable],
    base_env: Mapping[str, str],
    paths: PathMap,
) -> Invocation:
    """Merges image and container as a runtime does, and rewrites the pod's paths.

    Never the image's paths: those are of the host already.
    """
    image = image or Image()
    plain = _plain(variables)

    def words(key: str) -> tuple[str, ...]:
        return tuple(paths.text(expand(str(word), plain)) for word in container.get(key) or ())

    command, args = words("command"), words("args")
    argv = command + args if command else image.command + (args or image.args)
    env = {**base_env, **image.env}
    env.update({name: v.value if v.opaque else paths.text(v.value) for name, v in variables.items()})
    working_dir = paths.text(str(container["workingDir"])) if container.get("workingDir") else image.working_dir
    return Invocation(argv, env, working_dir)
