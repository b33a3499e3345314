package manifest

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

// Scope tells whether objects of a kind belong in a namespace, and whether that is known.
type Scope func(schema.GroupVersionKind) (namespaced, known bool)

// SetNamespace gives namespace to the objects that name none and that scope knows to belong in one. With an empty
// namespace it does nothing.
func SetNamespace(objects []Object, namespace string, scope Scope) {
	if namespace == "" {
		return
	}
	for _, o := range objects {
		if o.GetNamespace() != "" {
			continue
		}
		if namespaced, known := scope(o.GroupVersionKind()); namespaced && known {
			o.SetNamespace(namespace)
		}
	}
}

// BuiltinScope returns the scope of Kubernetes' own kinds, and of those that a CustomResourceDefinition among objects
// defines. It needs no cluster.
func BuiltinScope(objects []Object) Scope {
	defined := map[schema.GroupKind]bool{}
	for _, o := range objects {
		if gk := o.GroupVersionKind().GroupKind(); gk.Group != "apiextensions.k8s.io" || gk.Kind != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(o.Object, "spec", "scope")
		defined[schema.GroupKind{Group: group, Kind: kind}] = scope != "Cluster"
	}
	return func(gvk schema.GroupVersionKind) (namespaced, known bool) {
		if namespaced, ok := defined[gvk.GroupKind()]; ok {
			return namespaced, true
		}
		return !clusterScoped[gvk.GroupKind()], scheme.Scheme.Recognizes(gvk)
	}
}

// clusterScoped are the kinds of client-go's scheme that belong in no namespace. A test compares it with what the API
// server of the test cluster says.
var clusterScoped = map[schema.GroupKind]bool{
	{Kind: "ComponentStatus"}:  true,
	{Kind: "Namespace"}:        true,
	{Kind: "Node"}:             true,
	{Kind: "PersistentVolume"}: true,

	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicy"}:          true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicyBinding"}:   true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:     true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"}:        true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"}: true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}:   true,

	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: true, // Helm's packages add it to the scheme
	{Group: "authentication.k8s.io", Kind: "SelfSubjectReview"}:       true,
	{Group: "authentication.k8s.io", Kind: "TokenReview"}:             true,
	{Group: "authorization.k8s.io", Kind: "SelfSubjectAccessReview"}:  true,
	{Group: "authorization.k8s.io", Kind: "SelfSubjectRulesReview"}:   true,
	{Group: "authorization.k8s.io", Kind: "SubjectAccessReview"}:      true,
	{Group: "certificates.k8s.io", Kind: "CertificateSigningRequest"}: true,
	{Group: "certificates.k8s.io", Kind: "ClusterTrustBundle"}:        true,

	{Group: "flowcontrol.apiserver.k8s.io", Kind: "FlowSchema"}:                 true,
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "PriorityLevelConfiguration"}: true,
	{Group: "internal.apiserver.k8s.io", Kind: "StorageVersion"}:                true,

	{Group: "networking.k8s.io", Kind: "IngressClass"}: true,
	{Group: "networking.k8s.io", Kind: "IPAddress"}:    true,
	{Group: "networking.k8s.io", Kind: "ServiceCIDR"}:  true,
	{Group: "node.k8s.io", Kind: "RuntimeClass"}:       true,

	{Group: "policy", Kind: "PodSecurityPolicy"}:                        true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}:           true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:    true,
	{Group: "resource.k8s.io", Kind: "DeviceClass"}:                     true,
	{Group: "resource.k8s.io", Kind: "DeviceTaintRule"}:                 true,
	{Group: "resource.k8s.io", Kind: "ResourceSlice"}:                   true,
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}:                 true,
	{Group: "storage.k8s.io", Kind: "CSIDriver"}:                        true,
	{Group: "storage.k8s.io", Kind: "CSINode"}:                          true,
	{Group: "storage.k8s.io", Kind: "StorageClass"}:                     true,
	{Group: "storage.k8s.io", Kind: "VolumeAttachment"}:                 true,
	{Group: "storage.k8s.io", Kind: "VolumeAttributesClass"}:            true,
	{Group: "storagemigration.k8s.io", Kind: "StorageVersionMigration"}: true,
}
