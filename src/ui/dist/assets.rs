// Written by web/build.mjs. Names carry a hash of what is in them.
&[
    ("app-HYV6LK5K.js", include_bytes!("app-HYV6LK5K.js")),
    ("editor-ORDUTEXK.js", include_bytes!("editor-ORDUTEXK.js")),
    ("licences-642E51DD.txt", include_bytes!("licences-642E51DD.txt")),
    ("mark-10AA1244.svg", include_bytes!("mark-10AA1244.svg")),
    ("style-PJ4WCU3Y.css", include_bytes!("style-PJ4WCU3Y.css")),
]
