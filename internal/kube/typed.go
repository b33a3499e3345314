package kube

import (
	"net/http"

	"k8s.io/client-go/discovery"
	appsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	authorizationv1 "k8s.io/client-go/kubernetes/typed/authorization/v1"
	batchv1 "k8s.io/client-go/kubernetes/typed/batch/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"
	networkingv1 "k8s.io/client-go/kubernetes/typed/networking/v1"
	policyv1 "k8s.io/client-go/kubernetes/typed/policy/v1"
	"k8s.io/client-go/rest"
)

// Typed has clients for the API groups that Slipway itself reads and writes. kubernetes.Interface would have all of
// Kubernetes, of which the linker can leave nothing out.
type Typed struct {
	apps          *appsv1.AppsV1Client
	authorization *authorizationv1.AuthorizationV1Client
	batch         *batchv1.BatchV1Client
	coordination  *coordinationv1.CoordinationV1Client
	core          *corev1.CoreV1Client
	discovery     *discoveryv1.DiscoveryV1Client
	networking    *networkingv1.NetworkingV1Client
	policy        *policyv1.PolicyV1Client
	server        *discovery.DiscoveryClient
}

func newTyped(config *rest.Config, client *http.Client) (t *Typed, err error) {
	t = &Typed{}
	for _, make := range []func() error{
		func() (err error) { t.apps, err = appsv1.NewForConfigAndClient(config, client); return err },
		func() (err error) {
			t.authorization, err = authorizationv1.NewForConfigAndClient(config, client)
			return err
		},
		func() (err error) { t.batch, err = batchv1.NewForConfigAndClient(config, client); return err },
		func() (err error) {
			t.coordination, err = coordinationv1.NewForConfigAndClient(config, client)
			return err
		},
		func() (err error) { t.core, err = corev1.NewForConfigAndClient(config, client); return err },
		func() (err error) { t.discovery, err = discoveryv1.NewForConfigAndClient(config, client); return err },
		func() (err error) { t.networking, err = networkingv1.NewForConfigAndClient(config, client); return err },
		func() (err error) { t.policy, err = policyv1.NewForConfigAndClient(config, client); return err },
		func() (err error) {
			t.server, err = discovery.NewDiscoveryClientForConfigAndClient(config, client)
			return err
		},
	} {
		if err := make(); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// AppsV1 has Deployments and what is like them.
func (t *Typed) AppsV1() appsv1.AppsV1Interface { return t.apps }

// AuthorizationV1 has reviews of what an account may do.
func (t *Typed) AuthorizationV1() authorizationv1.AuthorizationV1Interface { return t.authorization }

// BatchV1 has Jobs.
func (t *Typed) BatchV1() batchv1.BatchV1Interface { return t.batch }

// CoordinationV1 has Leases.
func (t *Typed) CoordinationV1() coordinationv1.CoordinationV1Interface { return t.coordination }

// CoreV1 has pods, Secrets, events and namespaces.
func (t *Typed) CoreV1() corev1.CoreV1Interface { return t.core }

// DiscoveryV1 has EndpointSlices.
func (t *Typed) DiscoveryV1() discoveryv1.DiscoveryV1Interface { return t.discovery }

// NetworkingV1 has Ingresses.
func (t *Typed) NetworkingV1() networkingv1.NetworkingV1Interface { return t.networking }

// PolicyV1 has PodDisruptionBudgets.
func (t *Typed) PolicyV1() policyv1.PolicyV1Interface { return t.policy }

// Discovery tells what the API server serves.
func (t *Typed) Discovery() *discovery.DiscoveryClient { return t.server }
