{{- /* What the operator does in the namespaces it serves; tests/chart compares this with what the API server logs. */}}
{{- define "finetune-operator.rules" -}}
- apiGroups: [finetune.dev]
  resources: [finetunes]
  verbs: [get, list, watch, patch]
- apiGroups: [finetune.dev]
  resources: [finetunes/status]
  verbs: [patch]
# The Jobs block their owner's deletion: where the admission plugin OwnerReferencesPermissionEnforcement is on, that
# takes this.
- apiGroups: [finetune.dev]
  resources: [finetunes/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- if .Values.rbac.kueue }}
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list, patch]
{{- end }}
{{- end }}

{{- define "finetune-operator.secretRules" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
{{- end }}
