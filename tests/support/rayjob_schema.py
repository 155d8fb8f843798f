"""What a RayJob may look like, as far as deploy/rayjob.yaml goes: the fields it uses, and no others.

Reduced by hand from what KubeRay's v1 API (1.6) and Kubernetes' core/v1 say of these fields: names, types, which of
them are required.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
QUANTITY: Schema = {"anyOf": [COUNT, {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[kMGTP]i?)?$"}]}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}
"""KubeRay makes names of pods and services of it, which may have 63 signs."""


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def items(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


def mapping(of: Schema) -> Schema:
    return {"type": "object", "additionalProperties": of}


_CONTAINER = fields(
    {"name": TEXT, "image": TEXT},
    {
        "env": items(fields({"name": TEXT, "value": {"type": "string"}})),
        "resources": fields({"limits": mapping(QUANTITY)}, {"requests": mapping(QUANTITY)}),
        "volumeMounts": items(fields({"name": TEXT, "mountPath": {"type": "string", "pattern": "^/"}})),
    },
)
_VOLUME = fields(
    {"name": TEXT},
    {"persistentVolumeClaim": fields({"claimName": TEXT}), "emptyDir": {"type": "object", "maxProperties": 0}},
) | {"minProperties": 2, "maxProperties": 2}
_POD = fields(
    {
        "spec": fields(
            {"containers": items(_CONTAINER)},
            {
                "volumes": items(_VOLUME),
                "securityContext": fields({"fsGroup": COUNT}),
            },
        )
    }
)
_START = mapping({"type": "string"})
_HEAD = fields({"template": _POD}, {"rayStartParams": _START})
_WORKERS = fields(
    {"groupName": TEXT, "minReplicas": COUNT, "maxReplicas": COUNT, "template": _POD},
    {"replicas": COUNT, "rayStartParams": _START},
)
_CLUSTER = fields(
    {"headGroupSpec": _HEAD},
    {
        "rayVersion": TEXT,
        "authOptions": fields({"mode": {"enum": ["disabled", "token"]}}, {"secretName": TEXT}),
        "workerGroupSpecs": items(_WORKERS),
    },
)
RAYJOB = fields(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": fields({"name": NAME}),
        "spec": fields(
            {"entrypoint": TEXT, "rayClusterSpec": _CLUSTER},
            {
                "runtimeEnvYAML": TEXT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "backoffLimit": COUNT,
            },
        ),
    }
)
CLAIM = fields(
    {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "PersistentVolumeClaim"},
        "metadata": fields({"name": NAME}),
        "spec": fields(
            {
                "accessModes": items({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]}),
                "resources": fields({"requests": fields({"storage": QUANTITY})}),
            }
        ),
    }
)
