// Package browsertest drives a real browser in tests of pages.
package browsertest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Browser is a headless Chromium that is driven over a pair of pipes with the DevTools protocol: messages are JSON, each ended
// by a zero byte. It needs no port and no module.
type Browser struct {
	t       testing.TB
	cmd     *exec.Cmd
	to      io.WriteCloser
	mu      sync.Mutex
	next    int
	waiting map[int]chan answer
	gone    chan struct{}
	tabs    map[string]*Tab
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// Tab is one page in the browser. complaints is what it wrote to the console, or violated, or threw.
type Tab struct {
	b          *Browser
	session    string
	mu         sync.Mutex
	complaints []string
	requests   []string // URLs that it asked for
}

// Start skips the test where there is no Chromium.
func Start(t testing.TB) *Browser {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the browser is driven over inherited pipes, which Windows does not have")
	}
	name := os.Getenv("CHROMIUM")
	for _, candidate := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if name == "" {
			name, _ = exec.LookPath(candidate)
		}
	}
	if name == "" {
		t.Skip("no Chromium here: the page is not opened in a browser")
	}
	in, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	b := &Browser{t: t, to: to, waiting: map[int]chan answer{}, gone: make(chan struct{}), tabs: map[string]*Tab{}}
	b.cmd = exec.Command(name, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
		"--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--user-data-dir="+home, "about:blank")
	b.cmd.Env = append(os.Environ(), "HOME="+home)
	b.cmd.ExtraFiles = []*os.File{in, out} // 3 and 4
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = in.Close(), out.Close()
	go b.read(from)
	t.Cleanup(func() {
		_, _ = b.send("", "Browser.close", nil)
		_ = to.Close()
		killed := time.AfterFunc(10*time.Second, func() { _ = b.cmd.Process.Kill() })
		_ = b.cmd.Wait() // how it ended says nothing about the page
		killed.Stop()
		<-b.gone
		_ = from.Close()
		for range 20 { // its helpers may still be writing there
			if os.RemoveAll(home) == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	return b
}

// read hands out answers and collects events until the browser is gone.
func (b *Browser) read(from io.Reader) {
	defer close(b.gone)
	r := bufio.NewReader(from)
	for {
		data, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			answer
			ID        int
			Method    string
			SessionID string `json:"sessionId"`
			Params    json.RawMessage
		}
		if err := json.Unmarshal(data[:len(data)-1], &m); err != nil {
			continue // not ours to judge
		}
		b.mu.Lock()
		wait, tb := b.waiting[m.ID], b.tabs[m.SessionID]
		if m.ID != 0 {
			delete(b.waiting, m.ID)
		}
		b.mu.Unlock()
		switch {
		case m.ID != 0 && wait != nil:
			wait <- m.answer
		case tb != nil:
			tb.event(m.Method, m.Params)
		}
	}
}

func (t *Tab) event(method string, params json.RawMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch method {
	case "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled":
		t.complaints = append(t.complaints, method+": "+string(params))
	case "Network.requestWillBeSent":
		var p struct{ Request struct{ URL string } }
		_ = json.Unmarshal(params, &p)
		t.requests = append(t.requests, p.Request.URL)
	}
}

// send calls a method and waits for its answer.
func (b *Browser) send(session, method string, params any) (json.RawMessage, error) {
	wait := make(chan answer, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.waiting[id] = wait
	b.mu.Unlock()
	m := map[string]any{"id": id, "method": method}
	if params != nil {
		m["params"] = params
	}
	if session != "" {
		m["sessionId"] = session
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := b.to.Write(append(data, 0)); err != nil {
		return nil, err
	}
	select {
	case a := <-wait:
		if a.Error != nil {
			return nil, fmt.Errorf("%s: %s", method, a.Error.Message)
		}
		return a.Result, nil
	case <-b.gone:
		return nil, errors.New("the browser has ended")
	case <-time.After(2 * time.Minute):
		return nil, fmt.Errorf("%s: no answer", method)
	}
}

// Open opens an address in a tab of that width, and waits until the expression ready, which is asked over and over, is true.
func (b *Browser) Open(url string, width int, dark bool, ready string) *Tab {
	b.t.Helper()
	var target struct{ TargetID string }
	b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	t := &Tab{b: b, session: attached.SessionID}
	b.mu.Lock()
	b.tabs[t.session] = t
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		t.Call(domain+".enable", nil, nil)
	}
	t.Size(width, 900)
	t.Dark(dark)
	t.Call("Page.navigate", map[string]any{"url": url}, nil)
	t.Await(ready)
	return t
}

// Size makes the tab's window so large, in CSS pixels.
func (t *Tab) Size(width, height int) {
	t.b.t.Helper()
	t.Call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// Dark makes the system's colours dark, or light.
func (t *Tab) Dark(dark bool) {
	t.b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	t.Call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// Await waits until the expression is true.
func (t *Tab) Await(expression string) {
	t.b.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		// Between two pages there may be nothing that could be asked.
		if data, err := t.b.send(t.session, "Runtime.evaluate", map[string]any{"expression": "Boolean(" + expression + ")", "returnByValue": true}); err == nil && strings.Contains(string(data), `"value":true`) {
			return
		}
	}
	t.b.t.Fatalf("never true: %s; the page says: %s", expression, t.Eval("document.body ? document.body.innerText : ''"))
}

// Type writes text as a keyboard does, into what has the focus. Press presses one key by its name, such as Enter or j.
func (t *Tab) Type(text string) {
	t.b.t.Helper()
	t.Call("Input.insertText", map[string]any{"text": text}, nil)
}

// Press presses and releases a key.
func (t *Tab) Press(key string) {
	t.b.t.Helper()
	down := map[string]any{"type": "keyDown", "key": key}
	if codes := map[string]int{"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40}; codes[key] != 0 {
		down["windowsVirtualKeyCode"] = codes[key]
		if key == "Enter" {
			down["text"] = "\r"
		}
	} else {
		down["text"] = key
	}
	t.Call("Input.dispatchKeyEvent", down, nil)
	t.Call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key}, nil)
}

func (b *Browser) call(session, method string, params, result any) {
	b.t.Helper()
	data, err := b.send(session, method, params)
	if err == nil && result != nil {
		err = json.Unmarshal(data, result)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (t *Tab) Call(method string, params, result any) {
	t.b.t.Helper()
	t.b.call(t.session, method, params, result)
}

// Eval runs an expression in the page, waits for it if it is a promise, and returns its value as text.
func (t *Tab) Eval(expression string) string {
	t.b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	t.Call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &r)
	if len(r.ExceptionDetails) > 0 {
		t.b.t.Fatalf("%s: %s", expression, r.ExceptionDetails)
	}
	return fmt.Sprint(r.Result.Value)
}

// Quiet demands that the page complained about nothing and asked for nothing that allowed does not allow.
func (t *Tab) Quiet(allowed func(url string) bool) {
	t.b.t.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.complaints) > 0 {
		t.b.t.Errorf("the page complains: %s", strings.Join(t.complaints, "\n"))
	}
	for _, url := range t.requests {
		if !allowed(url) {
			t.b.t.Errorf("the page asks for %.100s", url)
		}
	}
	if len(t.requests) == 0 {
		t.b.t.Error("no request was seen, so this check sees nothing")
	}
}

// Close closes the tab.
func (t *Tab) Close() {
	t.b.t.Helper()
	t.Call("Page.close", nil, nil)
}

// Screenshot writes a picture of the page, from some place down, into the directory that IMMUTABLE_SCREENSHOTS names, if it does.
func (t *Tab) Screenshot(name string, from, width int) {
	t.b.t.Helper()
	dir := os.Getenv("IMMUTABLE_SCREENSHOTS")
	if dir == "" {
		return
	}
	var shot struct{ Data []byte }
	height, err := strconv.Atoi(t.Eval(`Math.max(innerHeight, Math.min(1500, document.documentElement.scrollHeight))`))
	if err != nil {
		t.b.t.Fatal(err)
	}
	t.Call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true, "clip": map[string]any{"x": 0, "y": from, "width": width, "height": height, "scale": 1}}, &shot)
	if err := os.WriteFile(filepath.Join(dir, name), shot.Data, 0o644); err != nil {
		t.b.t.Fatal(err)
	}
}
