{{- define "finetune-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Cluster-scoped objects carry the namespace too: releases of the same name do not meet. */}}
{{- define "finetune-operator.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "finetune-operator.fullname" .) | trunc 200 | trimSuffix "-" }}
{{- end }}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: finetune-operator
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* A reference to an image; the digest wins over the tag. */}}
{{- define "finetune-operator.imageOf" -}}
{{- $image := index . 0 }}
{{- $repository := ternary (printf "%s/%s" $image.registry $image.repository) $image.repository (ne $image.registry "") }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default (index . 1) $image.tag) }}
{{- end }}
{{- end }}

{{- define "finetune-operator.leaseName" -}}
{{- default (include "finetune-operator.fullname" .) .Values.leaderElection.leaseName }}
{{- end }}

{{- define "finetune-operator.progressUrl" -}}
{{- if .Values.progress.url }}
{{- .Values.progress.url }}
{{- else if .Values.progress.port }}
{{- printf "https://%s.%s.svc:%v" (include "finetune-operator.fullname" .) .Release.Namespace .Values.progress.port }}
{{- end }}
{{- end }}

{{- /* The Secret with the certificate of the progress endpoint; empty where the operator makes its own. */}}
{{- define "finetune-operator.certificateSecret" -}}
{{- if .Values.progress.certificate.secretName }}
{{- .Values.progress.certificate.secretName }}
{{- else if .Values.progress.certificate.certManager.enabled }}
{{- printf "%s-progress-tls" (include "finetune-operator.fullname" .) }}
{{- end }}
{{- end }}

{{- /* (root, certificate|key|authority, the file given): a file of that Secret where there is one. */}}
{{- define "finetune-operator.certificateFile" -}}
{{- $root := index . 0 }}
{{- $keys := $root.Values.progress.certificate.keys }}
{{- $key := get $keys (index . 1) }}
{{- if not (include "finetune-operator.certificateSecret" $root) }}
{{- index . 2 }}
{{- else if $key }}
{{- printf "/etc/finetune-operator/progress/%s" $key }}
{{- end }}
{{- end }}

{{- /* (name, value): one entry of the ConfigMap, or nothing where the value is empty and the operator decides. */}}
{{- define "finetune-operator.setting" -}}
{{- $value := index . 1 }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
{{ index . 0 }}: {{ toString $value | quote }}
{{- end }}
{{- end }}
