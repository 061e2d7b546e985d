{{- /*
What a chart includes to give its pods the sidecar. The values are those of .Values.httpHelper:

  image       the sidecar's image. Required.
  caddyfile   its configuration. Required; it listens on loopback for the app, and on port 8081 for
              /live, /ready and /metrics.
  secret      the name of the Secret that is mounted at /run/secrets/http_helper. Required.
  env         a list of variables, for example HTTPS_PROXY or SSL_CERT_FILE. Default: none.
  resources   of the container. Default: a request of 10m CPU and 64Mi, a limit of 192Mi.
*/ -}}

{{- /* Goes to initContainers: a native sidecar (Kubernetes 1.29). */ -}}
{{- define "http-helper.initContainer" -}}
- name: http-helper
  image: {{ required "httpHelper.image is missing" (.Values.httpHelper | default dict).image | quote }}
  restartPolicy: Always
  {{- with .Values.httpHelper.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: http-helper
      containerPort: 8081
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
    {{- with .Values.httpHelper.resources }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    requests:
      cpu: 10m
      memory: 64Mi
    limits:
      memory: 192Mi
    {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
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
{{- end }}

{{- /* Goes to volumes. No other container mounts them. */ -}}
{{- define "http-helper.volumes" -}}
- name: http-helper-config
  configMap:
    name: {{ include "http-helper.configName" . }}
- name: http-helper-secrets
  projected:
    defaultMode: 0444
    sources:
      - secret:
          name: {{ required "httpHelper.secret is missing" (.Values.httpHelper | default dict).secret | quote }}
- name: http-helper-run
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
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

{{- /* A changed configuration has a name of its own, so that the pods are replaced. */ -}}
{{- define "http-helper.configName" -}}
{{ .Release.Name | trunc 40 | trimSuffix "." }}-http-helper-{{ include "http-helper.caddyfile" . | sha256sum | trunc 10 }}
{{- end }}
