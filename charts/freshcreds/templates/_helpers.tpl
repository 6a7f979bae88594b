{{- define "freshcreds.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "freshcreds.fullname" -}}
{{- $name := include "freshcreds.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The component keeps the pod that cleans up out of the Deployment, the Service and the budget. */ -}}
{{- define "freshcreds.selector" -}}
app.kubernetes.io/name: {{ include "freshcreds.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end -}}

{{- define "freshcreds.labels" -}}
{{ include "freshcreds.selector" . }}
{{ include "freshcreds.furtherLabels" . }}
{{- end -}}

{{- define "freshcreds.furtherLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "freshcreds.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "freshcreds.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "freshcreds.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* What the clouds' webhooks look for at a service account. */ -}}
{{- define "freshcreds.identityAnnotations" -}}
{{- with .Values.identity.aws.roleArn }}
eks.amazonaws.com/role-arn: {{ . | quote }}
{{- end }}
{{- with .Values.identity.google.serviceAccount }}
iam.gke.io/gcp-service-account: {{ . | quote }}
{{- end }}
{{- with .Values.identity.azure.clientId }}
azure.workload.identity/client-id: {{ . | quote }}
{{- end }}
{{- with .Values.identity.azure.tenantId }}
azure.workload.identity/tenant-id: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "freshcreds.identityLabels" -}}
{{- if .Values.identity.azure.clientId -}}
azure.workload.identity/use: "true"
{{- end -}}
{{- end -}}

{{- /* Whether others than the pod itself may ask the endpoint. */ -}}
{{- define "freshcreds.isExposed" -}}
{{- if or (eq .Values.mode "secrets") (and (eq .Values.mode "node") .Values.node.exposeEndpoint) -}}
true
{{- end -}}
{{- end -}}

{{- /* The value of the label by which a Secret is known as this installation's. A label has 63 characters. */ -}}
{{- define "freshcreds.owner" -}}
{{- $owner := printf "%s.%s" .Release.Namespace .Release.Name -}}
{{- if gt (len $owner) 63 -}}
{{- $owner = printf "%s-%s" (trunc 52 $owner | trimSuffix "." | trimSuffix "-") (sha256sum $owner | trunc 10) -}}
{{- end -}}
{{- dig "kubernetes" "owner" $owner .Values.settings -}}
{{- end -}}

{{- /* Helm reads every number of a file as a float, and TOML tells 7654321 from 7.654321e+06: the settings know
       whole numbers alone. Changes what it is given. */ -}}
{{- define "freshcreds.wholeNumbers" -}}
{{- range $key, $value := . -}}
{{- if kindIs "float64" $value -}}
{{- $_ := set $ $key (int64 $value) -}}
{{- else if kindIs "map" $value -}}
{{- include "freshcreds.wholeNumbers" $value -}}
{{- else if kindIs "slice" $value -}}
{{- range $value -}}
{{- if kindIs "map" . -}}{{- include "freshcreds.wholeNumbers" . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The settings file: what the values say, and what the mode needs. */ -}}
{{- define "freshcreds.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- include "freshcreds.wholeNumbers" $settings -}}
{{- $fullname := include "freshcreds.fullname" . -}}
{{- if include "freshcreds.isExposed" . -}}
{{- $_ := set $settings "listen" (printf "%s:%d" .Values.endpoint.address (int64 .Values.endpoint.port)) -}}
{{- /* It is asked by address, and by these names of its Service; others are refused. */ -}}
{{- $service := printf "%s.%s" $fullname .Release.Namespace -}}
{{- $names := list $fullname $service (printf "%s.svc" $service) -}}
{{- $_ := set $settings "allowed_hosts" (concat $names ($settings.allowed_hosts | default list) | uniq) -}}
{{- end -}}
{{- if eq .Values.mode "secrets" -}}
{{- $kubernetes := $settings.kubernetes | default dict -}}
{{- $_ := set $kubernetes "lease" (printf "%s/%s" .Release.Namespace $fullname) -}}
{{- $_ := set $kubernetes "owner" (include "freshcreds.owner" .) -}}
{{- $_ := set $settings "kubernetes" $kubernetes -}}
{{- else if eq .Values.mode "node" -}}
{{- $path := printf "%s/config.json" (trimSuffix "/" .Values.node.folder) -}}
{{- $_ := set $settings "target" (list (dict "path" $path "reader" "kubelet")) -}}
{{- end -}}
{{- toToml $settings -}}
{{- end -}}

{{- /* Where there is neither, a sidecar goes by its variables alone. */ -}}
{{- define "freshcreds.hasFiles" -}}
{{- if or .Values.settings .Values.secretFiles -}}true{{- end -}}
{{- end -}}

{{- /* One volume for settings and credentials: a volume within one that is read only could not be mounted. What is
       mounted as a folder follows a change; by subPath it would not. */ -}}
{{- define "freshcreds.filesVolume" -}}
- name: freshcreds-files
  projected:
    {{- /* For whoever mounts it, which is freshcreds alone: a pod need not have an fsGroup. */}}
    defaultMode: 0444
    sources:
      {{- if .Values.settings }}
      - configMap:
          name: {{ include "freshcreds.fullname" . }}
      {{- end }}
      {{- range .Values.secretFiles }}
      - secret:
          name: {{ .secret }}
          items:
            - key: {{ .key | quote }}
              path: {{ printf "credentials/%s" (.file | default .key) | quote }}
      {{- end }}
{{- end -}}

{{- define "freshcreds.filesMount" -}}
- name: freshcreds-files
  mountPath: /etc/freshcreds
  readOnly: true
{{- end -}}

{{- /* No file lies on the root of the container, and no right is needed. */ -}}
{{- define "freshcreds.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* What the "restricted" standard asks for:
       https://kubernetes.io/docs/concepts/security/pod-security-standards/ */ -}}
{{- define "freshcreds.podSecurity" -}}
runAsNonRoot: true
{{- if not (kindIs "invalid" .Values.user) }}
runAsUser: {{ .Values.user | int64 }}
{{- end }}
{{- if not (kindIs "invalid" .Values.group) }}
runAsGroup: {{ .Values.group | int64 }}
{{- /* Lets a user that is not root read the projected token of the service account:
       https://github.com/kubernetes-sigs/external-dns/issues/1185 */}}
fsGroup: {{ .Values.group | int64 }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* What the pods of the modes `secrets` and `node` have in common. */ -}}
{{- define "freshcreds.podMetadata" -}}
labels:
  {{- include "freshcreds.labels" . | nindent 2 }}
  {{- with include "freshcreds.identityLabels" . }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  {{- /* New settings, new pods. */}}
  checksum/settings: {{ include "freshcreds.settings" . | sha256sum }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "freshcreds.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The container, up to what differs: arguments are given as `args`, variables as `env`. */ -}}
{{- define "freshcreds.container" -}}
{{- $it := .context -}}
image: {{ include "freshcreds.image" $it | quote }}
imagePullPolicy: {{ $it.Values.image.pullPolicy }}
args: {{ toJson .args }}
{{- $env := concat (.env | default list) $it.Values.env }}
{{- with $env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $it.Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $it.Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "freshcreds.configVariable" -}}
name: FRESHCREDS_CONFIG
value: /etc/freshcreds/config.toml
{{- end -}}
