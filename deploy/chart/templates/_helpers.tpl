{{- define "vortex.name" -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end }}

{{- define "vortex.selector" -}}
app.kubernetes.io/name: vortex
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "vortex.labels" -}}
{{ include "vortex.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
