{{/*
Names and labels. With the release name `ebpf-hello` every object is called ebpf-hello-COMPONENT.
Names are cut at 42: a StatefulSet's may have 52, because its pods carry it in a label with a hash behind it.
*/}}

{{- define "ebpf-hello.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 42 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 42 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ebpf-hello.agent" -}}{{ include "ebpf-hello.fullname" . }}-agent{{- end -}}
{{- define "ebpf-hello.collector" -}}{{ include "ebpf-hello.fullname" . }}-collector{{- end -}}
{{- define "ebpf-hello.crds" -}}{{ include "ebpf-hello.fullname" . }}-crds{{- end -}}
{{- define "ebpf-hello.test" -}}{{ include "ebpf-hello.fullname" . }}-test{{- end -}}

{{- define "ebpf-hello.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: ebpf-hello
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What selects a component's pods; never changes, selectors are immutable. (dict "root" $ "component" "agent") */}}
{{- define "ebpf-hello.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* An object's labels, and annotations if there are any. (dict "root" $ "component" "agent" "annotations" dict "labels" dict) */}}
{{- define "ebpf-hello.metadata" -}}
labels:
  {{- include "ebpf-hello.selector" . | nindent 2 }}
  {{- include "ebpf-hello.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Annotations of what the hook of the definitions may do: made before it, and gone with it, whether it failed or not. */}}
{{- define "ebpf-hello.crdsAccess" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: "-10"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end -}}
