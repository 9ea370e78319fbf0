{{- /* What a group needs and lacks, or gives twice. */}}
{{- define "salver.check" -}}
{{- $models := .group.models }}
{{- $sources := compact (list $models.claim $models.image $models.uri) }}
{{- if gt (len $sources) 1 }}
{{- fail (printf "group %s: set only one of models.claim, models.image and models.uri" .name) }}
{{- end }}
{{- if empty (append $sources .group.registry.secret | compact) }}
{{- fail (printf "group %s has no models: set models.claim, models.image, models.uri or registry.secret" .name) }}
{{- end }}
{{- if eq (empty .group.access.keysSecret) (not .group.access.allowAnonymous) }}
{{- fail (printf "group %s: set access.keysSecret, or access.allowAnonymous to true if the network decides who may run models" .name) }}
{{- end }}
{{- if ne (empty .group.access.keysSecret) (empty .group.access.probeKey) }}
{{- fail (printf "group %s: access.keysSecret and access.probeKey belong together, as readiness needs a key then" .name) }}
{{- end }}
{{- if gt (len (printf "%s-%s" .root.Release.Name .name)) 63 }}
{{- fail (printf "%s-%s is longer than the 63 characters of a Service's name: shorten the group or the release" .root.Release.Name .name) }}
{{- end }}
{{- if and (eq .group.autoscaling.kind "keda") (empty .group.autoscaling.prometheus) }}
{{- fail (printf "group %s: autoscaling.prometheus is missing, the URL that KEDA asks" .name) }}
{{- end }}
{{- end }}

{{- define "salver.container" -}}
{{- $group := .group }}
name: salver
image: "{{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args:
  - serve
  {{- if or $group.models.claim $group.models.image }}
  - /models
  {{- else if $group.models.uri }}
  - {{ $group.models.uri | quote }}
  {{- end }}
  - --host=0.0.0.0
  - --port=8000
  {{- if $group.access.keysSecret }}
  - --keys-file=/etc/salver/keys.toml
  {{- else }}
  - --allow-anonymous
  {{- end }}
  - --state-dir=
  - --drain-delay={{ $group.drain.delaySeconds }}
  - --grace-seconds={{ $group.drain.graceSeconds }}
  {{- range $group.args }}
  - {{ . | quote }}
  {{- end }}
env:
  - {name: HOME, value: /tmp}
  {{- with $group.registry.secret }}
  - {name: SALVER_REGISTRY, valueFrom: {secretKeyRef: {name: {{ . }}, key: url}}}
  {{- end }}
  {{- with $group.registry.artifacts }}
  - {name: SALVER_ARTIFACTS, value: {{ . | quote }}}
  {{- end }}
  {{- range $name, $value := $group.env }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- with $group.envSecrets }}
envFrom:
  {{- range . }}
  - {secretRef: {name: {{ . }}}}
  {{- end }}
{{- end }}
ports:
  - {name: http, containerPort: 8000, protocol: TCP}
startupProbe:
  httpGet: {path: /v2/health/live, port: http}
  periodSeconds: 2
  failureThreshold: {{ div (add1 $group.startupSeconds) 2 }}
readinessProbe:
  httpGet:
    path: /v2/health/ready
    port: http
    {{- with $group.access.probeKey }}
    httpHeaders: [{name: x-api-key, value: {{ . | quote }}}]
    {{- end }}
  periodSeconds: 3
livenessProbe:
  httpGet: {path: /v2/health/live, port: http}
  periodSeconds: 10
  timeoutSeconds: 3
resources: {{- toYaml $group.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if $group.sharedMemory }}
  - {name: shm, mountPath: /dev/shm}
  {{- end }}
  {{- if or $group.models.claim $group.models.image }}
  - {name: models, mountPath: /models, readOnly: true{{ with $group.models.subPath }}, subPath: {{ . | quote }}{{ end }}}
  {{- end }}
  {{- if $group.access.keysSecret }}
  - {name: keys, mountPath: /etc/salver, readOnly: true}
  {{- end }}
{{- end }}

{{- define "salver.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: {{ .scratch }}}}
{{- with .sharedMemory }}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ . }}}}
{{- end }}
{{- with .models.claim }}
- {name: models, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
{{- end }}
{{- with .models.image }}
- {name: models, image: {reference: {{ . | quote }}, pullPolicy: IfNotPresent}}
{{- end }}
{{- with .access.keysSecret }}
- {name: keys, secret: {secretName: {{ . }}}}
{{- end }}
{{- end }}
