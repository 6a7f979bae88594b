{{- /*
Templates for other charts, which take this one as a dependency and say `mode: sidecar` below its name in their
values. Each takes the parent's own context (`.`), or that of the dependency if it has an alias
(`.Subcharts.ALIAS`). examples/kubernetes/sidecar is a chart that uses all of them.
*/ -}}

{{- /* An entry for `initContainers`. */ -}}
{{- define "freshcreds.sidecar" -}}
{{- $it := . -}}
{{- with .Subcharts -}}{{- with .freshcreds -}}{{- $it = . -}}{{- end -}}{{- end -}}
{{- include "freshcreds.checked.context" $it -}}
{{- include "freshcreds.checked" $it -}}
{{- $folder := $it.Values.sidecar.folder -}}
{{- /* What was written is remembered beside it: a container that starts again goes on with its tokens. */ -}}
{{- $env := list (dict "name" "DOCKER_CONFIG" "value" $folder) (dict "name" "FRESHCREDS_STATE" "value" (printf "%s/.state" $folder)) -}}
{{- if $it.Values.settings -}}
{{- $env = prepend $env (include "freshcreds.configVariable" $it | fromYaml) -}}
{{- end -}}
- name: freshcreds
  {{- /* This makes it a sidecar: it goes on running beside the application, and is ended after it. It does not keep
         a Job from completing. */}}
  restartPolicy: Always
  {{- include "freshcreds.container" (dict "context" $it "args" (list "run") "env" $env) | nindent 2 }}
  {{- /* The probes ask inside of the container, so that the endpoint, which names the registries and the errors, can
         stay on loopback. There is no liveness probe: `check` tells whether the credentials are good, and a restart
         would not make a cloud answer. A daemon that cannot go on ends by itself, and is then started anew. */}}
  startupProbe:
    {{- /* The application is started when this one has passed: the first credentials are there. */}}
    exec:
      command: [/usr/local/bin/freshcreds, check]
    periodSeconds: 2
    timeoutSeconds: 5
    failureThreshold: {{ $it.Values.sidecar.startupTries | int64 }}
  {{- if $it.Values.sidecar.readiness }}
  readinessProbe:
    exec:
      command: [/usr/local/bin/freshcreds, check]
    periodSeconds: 15
    timeoutSeconds: 5
  {{- end }}
  securityContext:
    {{- include "freshcreds.containerSecurity" $it | nindent 4 }}
    {{- /* Here and not at the pod: an application that builds images may have to be root, or somebody else. */}}
    runAsNonRoot: true
    {{- if not (kindIs "invalid" $it.Values.user) }}
    runAsUser: {{ $it.Values.user | int64 }}
    {{- end }}
    {{- if not (kindIs "invalid" $it.Values.group) }}
    runAsGroup: {{ $it.Values.group | int64 }}
    {{- end }}
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    {{- /* The folder, never the file in it: what is mounted by subPath stays on the old file when a new one takes its
           place. https://kubernetes.io/docs/concepts/storage/volumes/#using-subpath */}}
    - name: freshcreds
      mountPath: {{ $folder }}
    {{- if include "freshcreds.hasFiles" $it }}
    {{- include "freshcreds.filesMount" $it | nindent 4 }}
    {{- end }}
    {{- with $it.Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- /* Entries for `volumes`. */ -}}
{{- define "freshcreds.volume" -}}
{{- $it := . -}}
{{- with .Subcharts -}}{{- with .freshcreds -}}{{- $it = . -}}{{- end -}}{{- end -}}
{{- include "freshcreds.checked.context" $it -}}
- name: freshcreds
  {{- /* In memory, so that no token is left on the disk of a node. A thousand entries fit. */}}
  emptyDir:
    medium: Memory
    sizeLimit: 16Mi
{{- if include "freshcreds.hasFiles" $it }}
{{ include "freshcreds.filesVolume" $it }}
{{- end }}
{{- with $it.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* An entry for `volumeMounts` of the application. */ -}}
{{- define "freshcreds.volumeMount" -}}
{{- $it := . -}}
{{- with .Subcharts -}}{{- with .freshcreds -}}{{- $it = . -}}{{- end -}}{{- end -}}
{{- include "freshcreds.checked.context" $it -}}
- name: freshcreds
  mountPath: {{ $it.Values.sidecar.folder }}
  readOnly: {{ not $it.Values.sidecar.writable }}
{{- end -}}

{{- /* Entries for `env` of the application: what docker's kind of reader goes by, and what podman's does. */ -}}
{{- define "freshcreds.env" -}}
{{- $it := . -}}
{{- with .Subcharts -}}{{- with .freshcreds -}}{{- $it = . -}}{{- end -}}{{- end -}}
{{- include "freshcreds.checked.context" $it -}}
- name: DOCKER_CONFIG
  value: {{ $it.Values.sidecar.folder }}
- name: REGISTRY_AUTH_FILE
  value: {{ $it.Values.sidecar.folder }}/config.json
{{- end -}}

{{- /* The pod's `securityContext`, where both containers run as the same user that is not root. */ -}}
{{- define "freshcreds.podSecurityContext" -}}
{{- $it := . -}}
{{- with .Subcharts -}}{{- with .freshcreds -}}{{- $it = . -}}{{- end -}}{{- end -}}
{{- include "freshcreds.checked.context" $it -}}
{{- include "freshcreds.podSecurity" $it -}}
{{- end -}}

{{- /* An entry for the pod's `annotations`: new settings, new pods. */ -}}
{{- define "freshcreds.checksum" -}}
{{- $it := . -}}
{{- with .Subcharts -}}{{- with .freshcreds -}}{{- $it = . -}}{{- end -}}{{- end -}}
{{- include "freshcreds.checked.context" $it -}}
checksum/freshcreds: {{ include "freshcreds.settings" $it | sha256sum }}
{{- end -}}

{{- /* Entries for `annotations` of the pod's service account, and for `labels` of the pod: whose identity it is. */ -}}
{{- define "freshcreds.serviceAccountAnnotations" -}}
{{- $it := . -}}
{{- with .Subcharts -}}{{- with .freshcreds -}}{{- $it = . -}}{{- end -}}{{- end -}}
{{- include "freshcreds.checked.context" $it -}}
{{- include "freshcreds.identityAnnotations" $it | trim -}}
{{- end -}}

{{- define "freshcreds.podLabels" -}}
{{- $it := . -}}
{{- with .Subcharts -}}{{- with .freshcreds -}}{{- $it = . -}}{{- end -}}{{- end -}}
{{- include "freshcreds.checked.context" $it -}}
{{- include "freshcreds.identityLabels" $it -}}
{{- end -}}
