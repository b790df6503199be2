/* The built-in page: a chat with a choice of cache policy, in two static files without anything
 * from elsewhere. The script is a file of its own so that the content security policy can forbid
 * inline scripts. Loop thread. */
#include <string.h>

#include "server/server_state.h"

static const char page[] =
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
    "content='width=device-width'>\n"
    "<title>winnow</title><style>\n"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:0 "
    "auto;padding:1rem;color:#222;background:#fff}\n"
    "#log{min-height:40vh}.user,.assistant,.error{white-space:pre-wrap;padding:.5rem "
    ".8rem;margin:.5rem 0;border-radius:.5rem}\n"
    ".user{background:#e8f0fe}.assistant{background:#f3f3f3}.error{background:#fde8e8}small{color:#"
    "666}\n"
    "textarea{width:100%;box-sizing:border-box;font:inherit}.row{display:flex;gap:.6rem;flex-wrap:"
    "wrap;align-items:center}\n"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}.user{background:#22304a}"
    ".assistant{background:#262626}\n"
    ".error{background:#4a2222}textarea,input,select,button{background:#222;color:#ddd;border:1px "
    "solid #555}}\n"
    "</style><h1>winnow</h1><p id=model></p><div id=log aria-live=polite></div>\n"
    "<form id=form><textarea id=text rows=3 placeholder='Write a message' "
    "aria-label=Message></textarea><div class=row>\n"
    "<label>cache policy <select id=policy></select></label><label>budget <input id=budget size=6 "
    "placeholder=default></label>\n"
    "<label>temperature <input id=temperature size=4 value=0.7></label><label>key <input id=key "
    "type=password size=10></label>\n"
    "<button id=send>Send</button><button type=button id=stop>Stop</button><button type=button "
    "id=clear>Clear</button>\n"
    "</div></form><p><small id=pool></small></p><script src=page.js></script></html>\n";

static const char script[] =
    "'use strict';\n"
    "const $=id=>document.getElementById(id);let messages=[],running=null;\n"
    "const headers=()=>{const "
    "h={'Content-Type':'application/json'};if($('key').value)h.Authorization='Bearer "
    "'+$('key').value;return h};\n"
    "function add(kind,text){const "
    "d=document.createElement('div');d.className=kind;d.textContent=text;$('log').append(d);d."
    "scrollIntoView();return d}\n"
    "async function facts(){try{\n"
    " const m=await(await "
    "fetch('v1/"
    "models',{headers:headers()})).json();if(m.data)$('model').textContent=m.data[0].id;\n"
    " const p=await(await fetch('v1/kv/policies',{headers:headers()})).json();const "
    "old=$('policy').value;$('policy').replaceChildren();\n"
    " for(const row of p.data||[])if(row.available){const "
    "o=document.createElement('option');o.value=row.name;o.textContent=row.name+': "
    "'+row.help;$('policy').append(o)}\n"
    " if(old)$('policy').value=old;\n"
    "}catch(e){$('model').textContent='the server does not answer'}}\n"
    "async function pool(){try{const s=await(await "
    "fetch('v1/kv/stats',{headers:headers()})).json();if(s.pool)\n"
    " $('pool').textContent='cache: '+s.pool.pages_used+' of '+s.pool.pages_total+' pages in "
    "use'}catch(e){}}\n"
    "async function send(){const "
    "text=$('text').value;if(!text||running)return;$('text').value='';messages.push({role:'user',"
    "content:text});add('user',text);\n"
    " const out=add('assistant',''),policy={name:$('policy').value||'full'};\n"
    " if($('budget').value&&policy.name!=='full')policy.budget=Number($('budget').value);running="
    "new AbortController();let answer='';\n"
    " try{const r=await "
    "fetch('v1/chat/"
    "completions',{method:'POST',headers:headers(),signal:running.signal,body:JSON.stringify({"
    "messages,stream:true,\n"
    "   "
    "temperature:Number($('temperature').value),kv_policy:policy,stream_options:{include_usage:"
    "true}})});\n"
    "  if(!r.ok){const e=await r.json();throw new Error(e.error.message)}\n"
    "  const reader=r.body.pipeThrough(new TextDecoderStream()).getReader();let rest='';\n"
    "  for(;;){const{value,done}=await reader.read();if(done)break;rest+=value;let at;\n"
    "   while((at=rest.indexOf('\\n\\n'))>=0){const "
    "line=rest.slice(0,at);rest=rest.slice(at+2);if(!line.startsWith('data: {'))continue;\n"
    "    const e=JSON.parse(line.slice(6));if(e.error)throw new Error(e.error.message);\n"
    "    if(e.choices[0])answer+=e.choices[0].delta.content||'';out.textContent=answer;\n"
    "    if(e.usage&&e.usage.kv_cache){const "
    "k=e.usage.kv_cache,s=document.createElement('small');\n"
    "     s.textContent='\\n'+e.usage.completion_tokens+' tokens; cache '+k.policy+': "
    "'+k.slots_kept_max+' of '+k.tokens_seen+' slots, '+k.bytes+' bytes';out.append(s)}}}\n"
    " }catch(e){if(e.name!=='AbortError')add('error',e.message)}\n"
    " if(answer)messages.push({role:'assistant',content:answer});else "
    "messages.pop();running=null;pool()}\n"
    "$('form').addEventListener('submit',e=>{e.preventDefault();send()});$('stop')."
    "addEventListener('click',()=>running&&running.abort());\n"
    "$('clear').addEventListener('click',()=>{messages=[];$('log').replaceChildren()});$('key')."
    "addEventListener('change',facts);\n"
    "$('text').addEventListener('keydown',e=>{if(e.key==='Enter'&&!e.shiftKey){e.preventDefault();"
    "send()}});facts();pool();setInterval(pool,5000);\n";

static void secure(struct exchange *x)
{
    exchange_add_header(
        x, "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'");
    exchange_add_header(x, "X-Content-Type-Options", "nosniff");
}

void handle_page(struct exchange *x, void *server)
{
    (void)server;
    secure(x);
    exchange_reply(x, 200, "text/html; charset=utf-8", page, strlen(page));
}

void handle_page_script(struct exchange *x, void *server)
{
    (void)server;
    secure(x);
    exchange_reply(x, 200, "text/javascript; charset=utf-8", script, strlen(script));
}
