{{/*
The name of every object: that of the release, with the chart's where the one does not say the
other. Short enough for the longest ending.
*/}}
{{- define "cairn-operator.fullname" -}}
{{- if hasPrefix .Release.Name .Chart.Name -}}
{{- .Chart.Name -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of objects that belong to no namespace: releases of one name may be in several. */}}
{{- define "cairn-operator.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "cairn-operator.fullname" .) -}}
{{- end -}}

{{/* The labels by which pods are selected. */}}
{{- define "cairn-operator.selector" -}}
app.kubernetes.io/name: cairn-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels of every object. */}}
{{- define "cairn-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "cairn-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: cairn
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "cairn-operator.account" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "cairn-operator.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "cairn-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the pod security standard `restricted` asks of a container, and more. */}}
{{- define "cairn-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end -}}

{{/* The same of a pod. */}}
{{- define "cairn-operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
What the operator may do in the namespaces that it looks after, and nothing else: a verb is
here because the operator uses it.
*/}}
{{- define "cairn-operator.rules" -}}
- apiGroups: ["cairn.dev"]
  resources: ["kvclusters"]
  verbs: ["get", "list", "watch"]
- apiGroups: ["cairn.dev"]
  resources: ["kvclusters/status"]
  verbs: ["patch"]
# Where the admission plugin OwnerReferencesPermissionEnforcement is on, whoever sets an owner
# whose deletion waits must be allowed this.
- apiGroups: ["cairn.dev"]
  resources: ["kvclusters/finalizers"]
  verbs: ["update"]
- apiGroups: ["apps"]
  resources: ["statefulsets"]
  # Deleted without their pods, to be made anew with a larger claim template.
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["get", "list", "watch", "delete"]
- apiGroups: [""]
  resources: ["persistentvolumeclaims"]
  verbs: ["get", "list", "watch", "patch", "delete"]
- apiGroups: [""]
  resources: ["configmaps"]
  verbs: ["get", "list", "watch", "create", "patch"]
- apiGroups: [""]
  resources: ["services"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
- apiGroups: [""]
  resources: ["serviceaccounts"]
  verbs: ["get", "create", "patch"]
# Of cert-manager, where a manifest names an issuer.
- apiGroups: ["cert-manager.io"]
  resources: ["certificates"]
  verbs: ["get", "create", "patch"]
# By name, and never listed: that would be to read all of them.
- apiGroups: [""]
  resources: ["secrets"]
  verbs: ["get", "create", "update"]
- apiGroups: ["policy"]
  resources: ["poddisruptionbudgets"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
- apiGroups: ["networking.k8s.io"]
  resources: ["networkpolicies"]
  verbs: ["get", "list", "watch", "create", "patch"]
- apiGroups: ["events.k8s.io"]
  resources: ["events"]
  verbs: ["create", "patch"]
{{- end -}}
