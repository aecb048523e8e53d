{{/* Names and labels. With the release name `ebpf-hello` every object is called ebpf-hello-COMPONENT. */}}

{{- define "ebpf-hello.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
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

{{/* An object's labels, and annotations if there are any. (dict "root" $ "component" "agent" "annotations" dict) */}}
{{- define "ebpf-hello.metadata" -}}
labels:
  {{- include "ebpf-hello.selector" . | nindent 2 }}
  {{- include "ebpf-hello.labels" .root | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
