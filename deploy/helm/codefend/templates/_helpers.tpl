{{- define "codefend.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Of one part: (list . "guard") or (list . "mllm"). */}}
{{- define "codefend.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "codefend.labels" -}}
{{- $root := index . 0 -}}
{{ include "codefend.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* Where the model is; the image without torch cannot answer by itself. */}}
{{- define "codefend.upstream" -}}
{{- if and .Values.mllm.enabled .Values.upstream.url -}}
{{- fail "upstream.url names one model and mllm.enabled brings another: leave one of them out" -}}
{{- else if .Values.mllm.enabled -}}
{{- printf "http://%s-mllm:%d/v1" (include "codefend.name" .) (int .Values.mllm.port) -}}
{{- else if .Values.upstream.url -}}
{{- .Values.upstream.url -}}
{{- else if eq .Values.image.tag "guard" -}}
{{- fail "the image `guard` has no model of its own: set upstream.url, or mllm.enabled, or image.tag to cpu" -}}
{{- end -}}
{{- end -}}

{{- define "codefend.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "codefend.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Rules for the cluster's names; everything that speaks needs them. */}}
{{- define "codefend.dns" -}}
- to:
    - namespaceSelector: {}
      podSelector:
        matchLabels: {k8s-app: kube-dns}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}
