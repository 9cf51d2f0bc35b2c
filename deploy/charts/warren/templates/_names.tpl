{{- /* Labels of every object. */}}
{{- define "warren.labels" -}}
app.kubernetes.io/part-of: warren
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- if not .Values.plainManifests }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}
{{- end }}

{{- define "warren.image" -}}
{{ .context.Values.image.registry }}/{{ .name }}:{{ .context.Values.image.tag | default .context.Chart.AppVersion }}
{{- end }}

{{- define "warren.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Names of cluster-wide objects: two releases must not share them. */}}
{{- define "warren.clusterName" -}}
warren-{{ .name }}{{ if ne .context.Release.Namespace "istio-system" }}-{{ .context.Release.Namespace }}{{ end }}
{{- end }}

{{- /* Where agents and waypoints, Istio's too, look for the control plane. */}}
{{- define "warren.controlPlane" -}}
istiod.{{ .Release.Namespace }}.svc:15012
{{- end }}

{{- define "warren.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
