{{/* The collector's pod: of a StatefulSet, or with NATS of a Deployment. */}}
{{- define "ebpf-hello.collectorPod" -}}
{{- $collector := .Values.collector }}
{{- $name := include "ebpf-hello.collector" . }}
{{- $nats := .Values.hub.nats }}
{{- $server := include "ebpf-hello.serverSecret" . }}
metadata:
  labels:
    {{- include "ebpf-hello.selector" (dict "root" $ "component" "collector") | nindent 4 }}
    {{- include "ebpf-hello.labels" . | nindent 4 }}
    {{- with $collector.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: collector
    {{- with $collector.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ $name }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- include "ebpf-hello.placement" $collector | nindent 2 }}
  terminationGracePeriodSeconds: {{ $collector.terminationGracePeriodSeconds }}
  securityContext:
    {{- include "ebpf-hello.restrictedPod" . | nindent 4 }}
    fsGroupChangePolicy: OnRootMismatch
  {{- with $collector.extraInitContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: collector
      image: {{ include "ebpf-hello.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - collector
        - --kubernetes
        - --log-format={{ .Values.log.format }}
        - --listen=:7443
        - --metrics-addr=[::]:9464
        - --namespace={{ .Release.Namespace }}
        - --agent-service-account={{ include "ebpf-hello.agent" . }}
        - --agent-daemonset={{ include "ebpf-hello.agent" . }}
        - --lease={{ $name }}
        - --tls-secret={{ include "ebpf-hello.tlsSecret" . }}
        - --ca-configmap={{ include "ebpf-hello.caConfigMap" . }}
        {{- if $server }}
        - --tls-cert=/etc/ebpf-hello/server/tls.crt
        - --tls-key=/etc/ebpf-hello/server/tls.key
        {{- else }}
        {{- range include "ebpf-hello.serverNames" . | fromJsonArray }}
        - --tls-name={{ . }}
        {{- end }}
        {{- end }}
        - --store-size={{ $collector.storeSize }}
        - --store-age={{ $collector.storeAge }}
        {{- if $nats.url }}
        - --hub={{ $nats.url }}
        {{- if $nats.credentialsSecret }}
        - --hub-credentials=/etc/ebpf-hello/nats-credentials/nats.creds
        {{- end }}
        {{- if $nats.tlsSecret }}
        - --hub-ca=/etc/ebpf-hello/nats-tls/ca.crt
        - --hub-cert=/etc/ebpf-hello/nats-tls/tls.crt
        - --hub-key=/etc/ebpf-hello/nats-tls/tls.key
        {{- end }}
        {{- else }}
        - --store=/var/lib/ebpf-hello/store
        # A copy of the authority, for a container that starts while the API server is away.
        - --tls-dir=/var/lib/ebpf-hello/tls
        {{- end }}
        {{- range $collector.corsOrigins }}
        - --cors-origin={{ . }}
        {{- end }}
        {{- range $collector.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        {{- include "ebpf-hello.environment" . | nindent 8 }}
        {{- with $collector.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: grpc
          containerPort: 7443
        - name: metrics
          containerPort: 9464
      {{- include "ebpf-hello.probes" . | nindent 6 }}
      securityContext:
        {{- include "ebpf-hello.restricted" . | nindent 8 }}
      resources:
        {{- toYaml $collector.resources | nindent 8 }}
      volumeMounts:
        {{- include "ebpf-hello.apiAccessMount" . | nindent 8 }}
        - name: run
          mountPath: /run/ebpf-hello
        {{- if not $nats.url }}
        - name: store
          mountPath: /var/lib/ebpf-hello
        {{- end }}
        {{- if $server }}
        - name: server
          mountPath: /etc/ebpf-hello/server
          readOnly: true
        {{- end }}
        {{- if $nats.credentialsSecret }}
        - name: nats-credentials
          mountPath: /etc/ebpf-hello/nats-credentials
          readOnly: true
        {{- end }}
        {{- if $nats.tlsSecret }}
        - name: nats-tls
          mountPath: /etc/ebpf-hello/nats-tls
          readOnly: true
        {{- end }}
        {{- with $collector.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $collector.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "ebpf-hello.apiAccessVolume" . | nindent 4 }}
    - name: run
      emptyDir:
        sizeLimit: 1Mi
    {{- if not (or $nats.url $collector.persistence.enabled) }}
    - name: store
      emptyDir:
        sizeLimit: {{ $collector.storeLimit }}
    {{- end }}
    {{- if $server }}
    - name: server
      secret:
        secretName: {{ $server }}
        defaultMode: 288 # 0440, which YAML 1.1 and 1.2 read differently
    {{- end }}
    {{- with $nats.credentialsSecret }}
    - name: nats-credentials
      secret:
        secretName: {{ . }}
        defaultMode: 288 # 0440, which YAML 1.1 and 1.2 read differently
    {{- end }}
    {{- with $nats.tlsSecret }}
    - name: nats-tls
      secret:
        secretName: {{ . }}
        defaultMode: 288 # 0440, which YAML 1.1 and 1.2 read differently
    {{- end }}
    {{- with $collector.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Names in the server's certificate: what agents and readers call the collector by. */}}
{{- define "ebpf-hello.serverNames" -}}
{{- $service := include "ebpf-hello.collector" . -}}
{{- $inNamespace := printf "%s.%s" $service .Release.Namespace -}}
{{- concat (list (printf "%s.svc" $inNamespace) (printf "%s.svc.%s" $inNamespace .Values.clusterDomain) $inNamespace $service "localhost" "127.0.0.1" "::1") .Values.tls.extraNames | uniq | toJson -}}
{{- end -}}
