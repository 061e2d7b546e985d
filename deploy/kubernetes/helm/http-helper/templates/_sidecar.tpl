{{- /*
What a chart includes to give its pods the sidecar. The values are those of .Values.httpHelper:

  image         the sidecar's image. Required.
  caddyfile     its configuration. Required; it listens on loopback for the app, and on port for /live, /ready
                and /metrics.
  port          where the probes and Prometheus ask. Default: 8081.
  secret        the name of the Secret that is mounted at /run/secrets/http_helper. Required.
  shareTokens   for share_tokens in the caddyfile. Its secret is the name of a second Secret, mounted at
                /run/secrets/http_helper_shared: what several apps have in common that share their
                tokens, such as token_key and redis_password. Default: none.
  env           a list of variables, for example HTTPS_PROXY or SSL_CERT_FILE. Default: none.
  volumes       a list of volumes, for example with a private CA or a client certificate. Default: none.
  volumeMounts  where the sidecar has them. Default: none.
  resources     of the container. What is not given stays: a request of 10m CPU and 64Mi, a limit of 192Mi.
                null takes one out.

The sidecar reads the secret as a member of the pod's fsGroup: the pod's securityContext has any, or the
platform gives it one, as OpenShift does.
*/ -}}

{{- /* Goes to initContainers: a native sidecar (Kubernetes 1.29). */ -}}
{{- define "http-helper.initContainer" -}}
- name: http-helper
  image: {{ required "httpHelper.image is missing" (.Values.httpHelper | default dict).image | quote }}
  restartPolicy: Always
  env:
    {{- /* A changed configuration changes the pods, so that they are replaced. */}}
    - name: HTTP_HELPER_CADDYFILE
      value: {{ include "http-helper.caddyfile" . | sha256sum }}
    {{- with .Values.httpHelper.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - name: http-helper
      containerPort: {{ .Values.httpHelper.port | default 8081 }}
  startupProbe:
    httpGet:
      path: /live
      port: http-helper
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet:
      path: /ready
      port: http-helper
    periodSeconds: 5
    failureThreshold: 2
  livenessProbe:
    httpGet:
      path: /live
      port: http-helper
    periodSeconds: 10
    failureThreshold: 3
  resources:
    {{- include "http-helper.resources" . | nindent 4 }}
  securityContext:
    {{- /* The image's user, 65532, or any other that the platform chooses. */}}
    runAsNonRoot: true
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    - name: http-helper-config
      mountPath: /etc/http_helper
      readOnly: true
    - name: http-helper-secrets
      mountPath: /run/secrets/http_helper
      readOnly: true
    - name: http-helper-run
      mountPath: /run/http_helper
    {{- if .Values.httpHelper.shareTokens }}
    - name: http-helper-shared
      mountPath: /run/secrets/http_helper_shared
      readOnly: true
    {{- end }}
    {{- with .Values.httpHelper.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "http-helper.resources" -}}
{{- $resources := dict "requests" (dict "cpu" "10m" "memory" "64Mi") "limits" (dict "memory" "192Mi") -}}
{{- range $kind, $own := .Values.httpHelper.resources -}}
{{- if not (kindIs "map" $own) -}}
{{- $_ := set $resources $kind $own -}}
{{- else -}}
{{- range $name, $value := $own -}}
{{- $_ := set (get $resources $kind) $name $value -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset (get $resources $kind) $name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{- /* Goes to the labels of the pods: metrics are found by it (deploy/prometheus). */ -}}
{{- define "http-helper.labels" -}}
http-helper.sidecar: enabled
{{- end }}

{{- /* Goes to volumes. No other container mounts them. */ -}}
{{- define "http-helper.volumes" -}}
- name: http-helper-config
  configMap:
    name: {{ include "http-helper.configName" . }}
- name: http-helper-secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ required "httpHelper.secret is missing" (.Values.httpHelper | default dict).secret | quote }}
- name: http-helper-run
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- with .Values.httpHelper.shareTokens }}
- name: http-helper-shared
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ required "httpHelper.shareTokens.secret is missing" .secret | quote }}
{{- end }}
{{- with .Values.httpHelper.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* A manifest of its own. */ -}}
{{- define "http-helper.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "http-helper.configName" . }}
data:
  {{- /* The number tells YAML where the lines begin: the first one may be indented. */}}
  Caddyfile: |2
    {{- include "http-helper.caddyfile" . | nindent 4 }}
{{- end }}

{{- define "http-helper.caddyfile" -}}
{{- required "httpHelper.caddyfile is missing" (.Values.httpHelper | default dict).caddyfile -}}
{{- end }}

{{- /* Always the same: Helm deletes what has another name in the new release, while old pods still need it. */ -}}
{{- define "http-helper.configName" -}}
{{ .Release.Name | trunc 50 | trimSuffix "." }}-http-helper
{{- end }}
