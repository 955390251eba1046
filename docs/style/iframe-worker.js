// Browsers refuse workers to a page that was opened from a file. Here a hidden frame does their work, so that search needs no server.
if (location.protocol === "file:")
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html><body></body>";
      this.ready = new Promise((done) => {
        this.frame.onload = () => {
          const scope = this.frame.contentWindow;
          scope.postMessage = (data) => setTimeout(() => this.onmessage?.({ data }));
          const script = scope.document.createElement("script");
          script.src = new URL(url, document.baseURI);
          script.onload = () => done(scope);
          script.onerror = (error) => this.onerror?.(error);
          scope.document.body.append(script);
        };
      });
      document.body.append(this.frame);
    }
    postMessage(data) {
      this.ready.then((scope) => scope.onmessage?.({ data }));
    }
    terminate() {
      this.frame.remove();
    }
  };
