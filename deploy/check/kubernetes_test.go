package check

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// manifests are all objects, decoded strictly: an unknown or repeated field is an error.
type manifests struct {
	sets     map[string]*appsv1.StatefulSet
	services map[string]*corev1.Service
	configs  map[string]*corev1.ConfigMap
	policies map[string]*networkingv1.NetworkPolicy
	budgets  map[string]*policyv1.PodDisruptionBudget
	monitors map[string]*monitoring.ServiceMonitor
}

func decode[T any](into map[string]*T, doc []byte, name func(*T) string) error {
	v := new(T)
	if err := yaml.UnmarshalStrict(doc, v); err != nil {
		return err
	}
	if into[name(v)] != nil {
		return fmt.Errorf("two are called %s", name(v))
	}
	into[name(v)] = v
	return nil
}

func (m *manifests) add(doc []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return err
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "apps/v1 StatefulSet":
		return decode(m.sets, doc, func(v *appsv1.StatefulSet) string { return v.Name })
	case "v1 Service":
		return decode(m.services, doc, func(v *corev1.Service) string { return v.Name })
	case "v1 ConfigMap":
		return decode(m.configs, doc, func(v *corev1.ConfigMap) string { return v.Name })
	case "networking.k8s.io/v1 NetworkPolicy":
		return decode(m.policies, doc, func(v *networkingv1.NetworkPolicy) string { return v.Name })
	case "policy/v1 PodDisruptionBudget":
		return decode(m.budgets, doc, func(v *policyv1.PodDisruptionBudget) string { return v.Name })
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return decode(m.monitors, doc, func(v *monitoring.ServiceMonitor) string { return v.Name })
	}
	return fmt.Errorf("nobody checks a %s %s", kind.APIVersion, kind.Kind)
}

func newManifests() *manifests {
	return &manifests{
		map[string]*appsv1.StatefulSet{},
		map[string]*corev1.Service{},
		map[string]*corev1.ConfigMap{},
		map[string]*networkingv1.NetworkPolicy{},
		map[string]*policyv1.PodDisruptionBudget{},
		map[string]*monitoring.ServiceMonitor{},
	}
}

func load(t *testing.T) *manifests {
	t.Helper()
	dir := filepath.Join("..", "kubernetes")
	var list struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Resources  []string `json:"resources"`
	}
	data, err := os.ReadFile(filepath.Join(dir, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if e.Name() != "kustomization.yaml" {
			files = append(files, e.Name())
		}
	}
	slices.Sort(list.Resources)
	if !slices.Equal(list.Resources, files) {
		t.Errorf("kustomization.yaml lists %v, there are %v", list.Resources, files)
	}
	m := newManifests()
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
			if err := m.add(doc); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	return m
}

func TestManifestsAreWhatKubernetesTakes(t *testing.T) {
	m := load(t)
	for _, n := range []int{len(m.sets), len(m.configs), len(m.policies), len(m.budgets), len(m.monitors)} {
		if n != 1 {
			t.Errorf("not one of each: %+v", m)
		}
	}
	for _, bad := range []string{
		"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{prot: 1}]}\n",
		"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x}\nspec: {replicas: one}\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {A: \"1\", A: \"2\"}\n",
		"apiVersion: apps/v1\nkind: Deployment\n",
	} {
		if newManifests().add([]byte(bad)) == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

func TestPodIsRestricted(t *testing.T) {
	set := load(t).sets["immutable"]
	pod := set.Spec.Template.Spec
	switch sc := pod.SecurityContext; {
	case sc == nil, sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot, sc.RunAsUser == nil || *sc.RunAsUser == 0, sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
		t.Errorf("pod: %+v", sc)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken || pod.HostNetwork || pod.HostPID {
		t.Error("the pod sees the cluster or its host")
	}
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		t.Error("a Service called immutable would set our variables")
	}
	for _, c := range pod.Containers {
		sc := c.SecurityContext
		if sc == nil || sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem || sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation ||
			sc.Capabilities == nil || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(sc.Capabilities.Add) > 0 {
			t.Errorf("container: %+v", sc)
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			t.Error("no limit of memory, or no request of a processor")
		}
		for name, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
			if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != map[string]string{"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}[name] {
				t.Errorf("%s: %+v", name, p)
			}
		}
	}
	if *set.Spec.Replicas != 1 {
		t.Error("one process writes a log")
	}
}

// TestManifestsFitTogether follows every name from where it is used to where it is made.
func TestManifestsFitTogether(t *testing.T) {
	m := load(t)
	set := m.sets["immutable"]
	pod := labels.Set(set.Spec.Template.Labels)
	ports := map[string]int32{}
	c := set.Spec.Template.Spec.Containers[0]
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	selects := func(what string, s *metav1.LabelSelector, l labels.Set) {
		t.Helper()
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil || !selector.Matches(l) || selector.Empty() {
			t.Errorf("%s selects nothing of ours: %v", what, err)
		}
	}
	selects("the set", set.Spec.Selector, pod)
	selects("the budget", m.budgets["immutable"].Spec.Selector, pod)
	policy := m.policies["immutable"]
	selects("the network policy", &policy.Spec.PodSelector, pod)
	for _, rule := range policy.Spec.Ingress {
		for _, p := range rule.Ports {
			if _, there := ports[p.Port.StrVal]; !there || len(rule.From) == 0 {
				t.Errorf("ingress: %+v", rule)
			}
		}
	}
	if len(policy.Spec.PolicyTypes) != 2 {
		t.Error("only one direction is restricted")
	}
	if m.services[set.Spec.ServiceName] == nil || m.services[set.Spec.ServiceName].Spec.ClusterIP != corev1.ClusterIPNone {
		t.Errorf("no headless service %s", set.Spec.ServiceName)
	}
	monitored := 0
	for _, s := range m.services {
		if !labels.SelectorFromSet(s.Spec.Selector).Matches(pod) || len(s.Spec.Selector) == 0 {
			t.Errorf("service %s selects nothing of ours", s.Name)
		}
		for _, p := range s.Spec.Ports {
			if _, there := ports[p.TargetPort.StrVal]; !there {
				t.Errorf("service %s: no port %s", s.Name, p.TargetPort.String())
			}
		}
		selector, err := metav1.LabelSelectorAsSelector(&m.monitors["immutable"].Spec.Selector)
		if err != nil {
			t.Fatal(err)
		}
		if selector.Matches(labels.Set(s.Labels)) {
			monitored++
			for _, e := range m.monitors["immutable"].Spec.Endpoints {
				if !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == e.Port }) {
					t.Errorf("the monitor asks for port %s", e.Port)
				}
			}
		}
	}
	if monitored != 1 {
		t.Errorf("%d services are scraped: entries would count twice, or not at all", monitored)
	}
	for _, from := range c.EnvFrom {
		if m.configs[from.ConfigMapRef.Name] == nil {
			t.Errorf("no ConfigMap %s", from.ConfigMapRef.Name)
		}
	}
	config := m.configs["immutable"].Data
	for _, key := range []string{"LOG_DIR", "ENABLE_BLOCKCHAIN", "ROTATE_SIZE_MB"} {
		if config[key] == "" {
			t.Errorf("the ConfigMap has no %s", key)
		}
	}
	if !strings.HasSuffix(config["IMMUTABLE_LISTEN"], fmt.Sprint(":", ports["http"])) {
		t.Errorf("it listens on %s, the port is %d", config["IMMUTABLE_LISTEN"], ports["http"])
	}
	claims := map[string]bool{}
	for _, v := range set.Spec.VolumeClaimTemplates {
		claims[v.Name] = true
	}
	mounts := map[string]bool{}
	for _, v := range c.VolumeMounts {
		mounts[v.MountPath] = true
		if !claims[v.Name] {
			t.Errorf("no claim %s", v.Name)
		}
	}
	if !mounts[config["LOG_DIR"]] || !mounts[config["IMMUTABLE_STATE_DIR"]] {
		t.Errorf("%s or %s is on no volume: %v", config["LOG_DIR"], config["IMMUTABLE_STATE_DIR"], slices.Collect(maps.Keys(mounts)))
	}
}
