{{- /* What a schema cannot say, or not so that it helps. Every message says what to write. */ -}}
{{- define "freshcreds.checked" -}}
{{- $settings := .Values.settings -}}
{{- if not (has .Values.mode (list "secrets" "node" "sidecar")) -}}
{{- fail (printf "`mode` is %s: set it to `secrets` (image pull secrets in many namespaces), `node` (the kubelet's config.json on each node) or `sidecar` (templates for other charts), for example --set mode=secrets" (.Values.mode | default "" | quote)) -}}
{{- end -}}
{{- $isNamed := or $settings.registries $settings.registry -}}
{{- if and (ne .Values.mode "sidecar") (not $isNamed) -}}
{{- fail "`settings.registries` is empty: name the registries to keep fresh, for example --set 'settings.registries={123456789012.dkr.ecr.eu-west-1.amazonaws.com}'" -}}
{{- end -}}
{{- if and (ne .Values.mode "secrets") $settings.image_pull_secret -}}
{{- fail (printf "`settings.image_pull_secret` is for mode `secrets`, and this is mode `%s`: every pod of it would write the same Secrets" .Values.mode) -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (include "freshcreds.identityAnnotations" . | trim) (ne .Values.mode "sidecar") -}}
{{- fail "`identity` is annotations of the service account, and `serviceAccount.create` is false: annotate yours, and leave `identity` empty" -}}
{{- end -}}
{{- if and .Values.identity.azure.tenantId (not .Values.identity.azure.clientId) -}}
{{- fail "`identity.azure.tenantId` says nothing without `identity.azure.clientId`: set that, too" -}}
{{- end -}}
{{- include (printf "freshcreds.checked.%s" .Values.mode) . -}}
{{- end -}}

{{- define "freshcreds.checked.secrets" -}}
{{- $settings := .Values.settings -}}
{{- if not $settings.image_pull_secret -}}
{{- fail "`settings.image_pull_secret` is empty: name the Secret and its namespaces, for example --set 'settings.image_pull_secret[0].name=freshcreds,settings.image_pull_secret[0].namespaces={build,prod}'" -}}
{{- end -}}
{{- range $key := list "target" "docker_config" -}}
{{- if index $settings $key -}}
{{- fail (printf "`settings.%s` is about files, and mode `secrets` writes none: leave it, or use mode `node` or `sidecar`" $key) -}}
{{- end -}}
{{- end -}}
{{- if dig "kubernetes" "lease" "" $settings -}}
{{- fail "`settings.kubernetes.lease` is the chart's: it makes a Lease of the release's name, and the roles for it; leave it" -}}
{{- end -}}
{{- include "freshcreds.checked.listen" . -}}
{{- range $settings.image_pull_secret -}}
{{- $ways := 0 -}}
{{- if .namespaces -}}{{- $ways = add1 $ways -}}{{- end -}}
{{- if .namespace_selector -}}{{- $ways = add1 $ways -}}{{- end -}}
{{- if .all_namespaces -}}{{- $ways = add1 $ways -}}{{- end -}}
{{- if ne (int $ways) 1 -}}
{{- fail (printf "the image pull secret `%s` needs one of `namespaces`, `namespace_selector` and `all_namespaces: true`, and has %d of them" .name (int $ways)) -}}
{{- end -}}
{{- if and .namespaces .excluded_namespaces -}}
{{- fail (printf "the image pull secret `%s` names its namespaces, so there is none to exclude: leave `excluded_namespaces`" .name) -}}
{{- end -}}
{{- if and .service_accounts .service_account_selector -}}
{{- fail (printf "the image pull secret `%s` has both `service_accounts` and `service_account_selector`: leave one" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "freshcreds.checked.node" -}}
{{- range $key := list "target" "docker_config" -}}
{{- if index $.Values.settings $key -}}
{{- fail (printf "`settings.%s` is the chart's in mode `node`: say in `node.folder` where the kubelet looks for config.json" $key) -}}
{{- end -}}
{{- end -}}
{{- if .Values.node.exposeEndpoint -}}
{{- include "freshcreds.checked.listen" . -}}
{{- else if .Values.monitoring.serviceMonitor.enabled -}}
{{- fail "`monitoring.serviceMonitor` needs an endpoint that can be reached, and in mode `node` it is on loopback: set `node.exposeEndpoint: true`, too" -}}
{{- end -}}
{{- end -}}

{{- define "freshcreds.checked.sidecar" -}}
{{- end -}}

{{- define "freshcreds.checked.listen" -}}
{{- if .Values.settings.listen -}}
{{- fail "`settings.listen` is the chart's here, since probes and Service go by it: set `endpoint.address` and `endpoint.port`" -}}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled (not .Values.service.enabled) -}}
{{- fail "`monitoring.serviceMonitor` finds the pods by their Service: set `service.enabled: true`, too" -}}
{{- end -}}
{{- end -}}

{{- /* Of the templates for other charts. */ -}}
{{- define "freshcreds.checked.context" -}}
{{- if not (hasKey .Values "secretFiles") -}}
{{- fail "this chart has no dependency that is called freshcreds: if it has an alias, write .Subcharts.ALIAS in place of the dot, as in (include \"freshcreds.sidecar\" .Subcharts.ALIAS)" -}}
{{- end -}}
{{- if ne .Values.mode "sidecar" -}}
{{- fail (printf "the templates of freshcreds for other charts need `mode: sidecar` below the dependency's name in the values, not %s" (quote .Values.mode)) -}}
{{- end -}}
{{- end -}}
