{{/* Where certificates are. No template makes a key. */}}

{{/* The Secret with the own authority and its key. */}}
{{- define "ebpf-hello.tlsSecret" -}}
{{- .Values.tls.authority.existingSecret | default (printf "%s-tls" (include "ebpf-hello.fullname" .)) -}}
{{- end -}}

{{/* The ConfigMap in which the collector publishes what the own authority's certificates are checked with. */}}
{{- define "ebpf-hello.caConfigMap" -}}{{ include "ebpf-hello.fullname" . }}-ca{{- end -}}

{{/* The Secret with a server certificate from elsewhere; empty: from the own authority. */}}
{{- define "ebpf-hello.serverSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- if .Values.tls.server.existingSecret -}}
{{- fail "tls.certManager.enabled and tls.server.existingSecret are two sources of one certificate: set one of them" -}}
{{- end -}}
{{ include "ebpf-hello.collector" . }}-server
{{- else -}}
{{- .Values.tls.server.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* The ConfigMap of which agents trust ca.crt. */}}
{{- define "ebpf-hello.trustedConfigMap" -}}
{{- if include "ebpf-hello.serverSecret" . -}}
{{- required "tls.server.caConfigMap is missing: a server certificate from elsewhere (tls.certManager, tls.server.existingSecret) needs the name of a ConfigMap whose key ca.crt agents check it with" .Values.tls.server.caConfigMap -}}
{{- else -}}
{{ include "ebpf-hello.caConfigMap" . }}
{{- end -}}
{{- end -}}
