{{- /* Labels of a group (dict "root" $ "name" NAME), and of everything if there is no name. */}}
{{- define "salver.selector" -}}
app.kubernetes.io/name: salver
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .name }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "salver.metadata" -}}
name: {{ .root.Release.Name }}{{ with .name }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "salver.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}
