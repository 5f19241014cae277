"""A small node agent: registers a Node and runs the pods bound to it as plain processes of this user.

No root, no container runtime, no namespaces. `python -m tests.cluster.node_agent --help` lists the settings.

What a pod gets: its environment, volumes (emptyDir, configMap, secret, downwardAPI, projected, persistentVolumeClaim on
a hostPath or local volume, hostPath), signals, exit codes, termination message, memory limit (soft), restart policy,
`kubectl logs`, graceful deletion.

What differs from a container, and cannot be helped without namespaces:

- There is no mount namespace. A mount point's absolute path is rewritten to its place on the host wherever it starts a
  path in the pod's env values, command, args and workingDir; so is a folder that exists only because something is
  mounted below it. A path that only the program's own code knows (such as
  /var/run/secrets/kubernetes.io/serviceaccount) is not found: hand it over by environment.
- `readOnly` mounts, `runAsUser`, `fsGroup`, capabilities, CPU limits and emptyDir size limits are not enforced.
- All pods share the host's network: podIP is the node's address and two pods cannot listen on one port.
- Probes and lifecycle hooks are not run (an Event says so); sidecar init containers are refused.
"""
